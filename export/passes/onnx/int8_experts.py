"""Lower experts with per-token int8 activations to Q/DQ pairs and a batched MatMul over all experts."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.dense_experts import add_bias, gates_of_all, multiply_tokens
from edgekiln.export.passes.common.expert_blocks import ExpertBlock, expert_blocks
from edgekiln.export.passes.common.per_channel import transposed_codes
from edgekiln.export.passes.common.tensors import Array, constant, make, new_initializer, shape_of, values_of
from edgekiln.export.passes.onnx.per_token_int8 import normalize_tokens


class LowerInt8ExpertsToQDQ(InPlacePass):
    """Replace experts with one scale an output channel: every expert computes every token.

    The first products become QuantizedMatMul, as in `MakeExpertsDense`. The last one is a batched MatMul, whose weights
    are dequantized with the largest scale of all, as DequantizeLinear takes no scale for each expert and channel; its
    results are multiplied by the quotient of the scales. Tokens are quantized as in `LowerPerTokenInt8ToQDQ`.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for block in expert_blocks(model):
            if not block.down.group_size:
                multiply_tokens(model.graph, block)
                _sum_outputs(model.graph, block)
                modified = True
        return PassResult(model, modified)


def _sum_outputs(graph: ir.Graph, block: ExpertBlock) -> None:
    op = block.down
    experts, n, _ = shape_of(op.qweight)
    last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    first = constant(graph, "ints.0", np.array([0], dtype=np.int64))
    new = gates_of_all(graph, block)
    gates = new[-1].outputs[0]

    def add(kind: str, inputs: list[ir.Value], suffix: str, **attributes: Any) -> ir.Value:
        new.append(make(kind, inputs, f"{op.name}.{suffix}", **attributes))
        return new[-1].outputs[0]

    def largest() -> Array:
        return np.asarray(values_of(op.scales).max(), dtype=np.float32)

    def quotients() -> Array:
        scales = values_of(op.scales).astype(np.float32)
        return np.asarray(scales / scales.max()).reshape(experts, 1, n)

    scale = new_initializer(graph, f"{op.scales.name}.largest", (), ir.DataType.FLOAT, largest)
    quotient = new_initializer(graph, f"{op.scales.name}.quotients", (experts, 1, n), ir.DataType.FLOAT, quotients)
    by_expert = add("Transpose", [op.x], "by_expert", perm=[1, 0, 2])  # [E, T, I]
    nodes, (quantized, maximum) = normalize_tokens(graph, by_expert)
    new += nodes
    weight = add("DequantizeLinear", [transposed_codes(graph, op.qweight), scale], "weight")
    products = add("MatMul", [quantized, weight], "int8")
    gates_by_expert = add("Unsqueeze", [add("Transpose", [gates], "gates_by_expert", perm=[1, 0]), last], "gate_column")
    factors = add("Mul", [maximum, gates_by_expert], "factors")
    scaled = add("Mul", [add("Mul", [products, quotient], "rescaled"), factors], "weighted")
    add("ReduceSum", [scaled, first], "weighted_sum", keepdims=0)
    add_bias(block, new, gates)
    block.replace(new)
