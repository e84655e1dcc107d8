"""The op Scan over the tokens of a sequence."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper


def scan_over_tokens(
    body: Sequence[onnx.NodeProto],
    states: Mapping[str, int],
    tokens: Mapping[str, int],
    outputs: Mapping[str, int],
    axis: int,
    constants: Mapping[str, int] | None = None,
) -> onnx.NodeProto:
    """A Scan without inputs and outputs, of float32.

    Args:
        body: the nodes of a token. They compute `s_out` from `s_in` for each state s.
        states, tokens, outputs: names with ranks, those of tokens and outputs without `axis`.
        axis: the axis of tokens.
        constants: names with ranks of values c that `body` reads as `c_in`. Scan carries them like states: a value of
            the graph around it would keep its own type when the graph is converted to float16.

    Returns:
        The node. Its inputs are states, constants and tokens; its outputs states, constants and outputs.
    """
    constants = constants or {}

    def info(name: str, rank: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)

    carried = {**states, **constants}
    graph = helper.make_graph(
        [*body, *(helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in constants)],
        "token",
        [*(info(f"{name}_in", rank) for name, rank in carried.items()), *(info(*item) for item in tokens.items())],
        [*(info(f"{name}_out", rank) for name, rank in carried.items()), *(info(*item) for item in outputs.items())],
    )
    return helper.make_node(
        "Scan",
        [],
        [],
        body=graph,
        num_scan_inputs=len(tokens),
        scan_input_axes=[axis] * len(tokens),
        scan_output_axes=[axis] * len(outputs),
    )
