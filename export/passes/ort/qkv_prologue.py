"""What becomes of a layer's packed projections before they are attended.

Cases:
    1. nothing: query, key and value are one tensor;
    2. a bias is added (Qwen 2);
    3. queries and keys are normed head by head (Qwen 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper

from edgekiln.export.passes.common.tensors import is_weight, only_reader, shape_of

_NORM = "SimplifiedLayerNormalization"


@dataclass(frozen=True)
class Preparation:
    """How one attention takes its projections.

    Attributes:
        projected: float [B, S, P], query, key and value side by side.
        nodes: from there to the attention, in order.
        constants: bias [P], or the norms' gamma [D] of queries and of keys, or none.
        attributes: `biased` and `normed`, 0 or 1, and `head_epsilon` of the norms: what must be alike in all layers.
    """

    projected: ir.Value
    nodes: tuple[ir.Node, ...] = ()
    constants: tuple[ir.Value, ...] = ()
    biased: int = 0
    normed: int = 0
    head_epsilon: float = 0.0

    @property
    def attributes(self) -> dict[str, int | float]:
        """By name."""
        return {"biased": self.biased, "normed": self.normed, "head_epsilon": self.head_epsilon}

    def written(self, projected: str, constants: Sequence[str], prefix: str) -> tuple[list[onnx.NodeProto], list[str]]:
        """The same as nodes of a function, whose values begin with `prefix`, and the attention's first three inputs."""
        if self.biased:
            return [helper.make_node("Add", [projected, *constants], [f"{prefix}biased"])], [f"{prefix}biased", "", ""]
        if not self.normed:
            return [], [projected, "", ""]
        sizes = _numbers(self.nodes[0].inputs[1])
        (head_dim,) = shape_of(self.constants[0])
        parts = [f"{prefix}{part}" for part in ("query", "key", "value")]
        nodes = [
            helper.make_node("Constant", [], [f"{prefix}sizes"], value_ints=sizes),
            helper.make_node("Constant", [], [f"{prefix}heads"], value_ints=[0, 0, -1, head_dim]),
            helper.make_node("Split", [projected, f"{prefix}sizes"], parts, axis=-1),
        ]
        for part, gamma, size in zip(parts, constants, sizes, strict=False):
            heads = [f"{part}.heads", gamma]
            nodes += [
                helper.make_node("Reshape", [part, f"{prefix}heads"], [f"{part}.heads"]),
                helper.make_node(_NORM, heads, [f"{part}.normed"], axis=-1, epsilon=self.head_epsilon, stash_type=1),
                helper.make_node("Constant", [], [f"{part}.shape"], value_ints=[0, 0, size]),
                helper.make_node("Reshape", [f"{part}.normed", f"{part}.shape"], [f"{part}.flat"]),
            ]
        return nodes, [f"{parts[0]}.flat", f"{parts[1]}.flat", parts[2]]


def preparation(attention: ir.Node) -> Preparation | None:
    """Of a GroupQueryAttention; None where it is another."""
    query, key, value = attention.inputs[:3]
    assert query is not None
    if key is not None and value is not None:
        return _normed(attention, query, key, value)
    add = query.producer()
    if add is None or add.op_type != "Add" or not only_reader(query):
        return Preparation(query)
    biases = [i for i in (0, 1) if is_weight(add.inputs[i]) and len(shape_of(add.inputs[i])) == 1]  # type: ignore[arg-type]
    if not biases:
        return Preparation(query)
    bias, projected = add.inputs[biases[0]], add.inputs[1 - biases[0]]
    assert bias is not None
    assert projected is not None
    return Preparation(projected, (add,), (bias,), biased=1) if only_reader(projected) else Preparation(query)


def _normed(attention: ir.Node, query: ir.Value, key: ir.Value, value: ir.Value) -> Preparation | None:
    split = value.producer()
    norms = [_norm_of(part) for part in (query, key)]
    if split is None or split.op_type != "Split" or len(split.outputs) != 3 or any(norm is None for norm in norms):
        return None
    chains = [norm for norm in norms if norm is not None]
    gammas = [norm.inputs[1] for _, norm, _ in chains]
    parts = [reshape.inputs[0] for reshape, _, _ in chains]
    projected = split.inputs[0]
    if list(split.outputs) != [*parts, value] or not all(map(only_reader, split.outputs)):
        return None
    assert projected is not None
    epsilons = {norm.attributes["epsilon"].as_float() for _, norm, _ in chains}
    if not all(map(is_weight, gammas)) or len(epsilons) != 1 or not only_reader(projected):
        return None
    heads, kv_heads = (attention.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
    size = shape_of(gammas[0])[0]  # type: ignore[arg-type]
    wanted = [heads * size, kv_heads * size, kv_heads * size]
    if _numbers(split.inputs[1]) != wanted or shape_of(gammas[1]) != (size,):  # type: ignore[arg-type]
        return None
    nodes = (split, *(node for chain in chains for node in chain))
    return Preparation(projected, nodes, tuple(gammas), normed=1, head_epsilon=epsilons.pop())  # type: ignore[arg-type]


def _norm_of(flat: ir.Value) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """Reshape to heads, norm and reshape back, that end in `flat`."""
    nodes: list[ir.Node] = []
    value: ir.Value | None = flat
    for op in ("Reshape", _NORM, "Reshape"):
        node = value.producer() if value is not None else None
        if value is None or node is None or node.op_type != op or not only_reader(value):
            return None
        nodes.append(node)
        value = node.inputs[0]
    back, norm, reshape = nodes
    return reshape, norm, back


def _numbers(value: ir.Value | None) -> list[int]:
    """Of an initializer or the output of a Constant; none of what is computed."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return [] if tensor is None else tensor.numpy().tolist()
