"""Find the experts of a layer in the canonical graph, from the tokens to the weighted sum of their outputs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.quantized_ops import QuantizedExpertOp, quantized_expert_matmuls
from edgekiln.export.passes.common.tensors import (
    attribute,
    constant,
    graph_of,
    input_of,
    is_weight,
    make,
    only_reader,
    optional_input,
    replace_node,
    size_of,
    sizes_of,
    values_of,
)

# Ops that compute each element, or each vector along the last axis, of [T, k, N] by itself.
_BY_ELEMENT = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Clip", "Pow", "Sqrt", "Exp", "Erf", "Tanh"}
    | {"Relu", "Sigmoid", "Gelu", "Softplus", "Swish"}
)
_ALONG_THE_LAST_AXIS = frozenset({"Split", "RMSNormalization"})
_RANK = 3


@dataclass(frozen=True)
class ExpertBlock:
    """The quantized experts of a layer: out = Σⱼ gates[:, j] · (down(inner(first(x))) + down_bias)[:, j].

    Attributes:
        first: the products that read the tokens, QuantizedExpertMatMul of x [T, 1, K].
        first_bias: the nodes GatherND that read the biases [E, N] of the first products.
        inner: the nodes between `first` and `down`, without those of biases; they keep tokens and experts apart.
        down: the product that reads what `inner` computes, [T, k, I].
        down_bias: float [E, N], or None.
        index, gates: the experts of each token and their weights, [T, k].
        tail: the nodes from `down` to the sum over the experts of a token, with output [T, N].
    """

    first: list[QuantizedExpertOp]
    first_bias: list[ir.Node]
    inner: list[ir.Node]
    down: QuantizedExpertOp
    down_bias: ir.Value | None
    index: ir.Value
    gates: ir.Value
    tail: list[ir.Node]

    @property
    def experts(self) -> int:
        """How many experts the layer has."""
        return size_of(self.down.qweight, 0)

    def replace(self, new_nodes: list[ir.Node]) -> None:
        """Put `new_nodes` in place of the tail, and the last one's output in place of the sum."""
        *others, last = self.tail
        graph = graph_of(last)
        replace_node(last, new_nodes, [new_nodes[-1].outputs[0]])
        for node in reversed(others):
            graph.remove(node, safe=True)


def expert_blocks(model: ir.Model) -> Iterator[ExpertBlock]:
    """Every block of quantized experts, which may be replaced while iterating.

    Experts that do something else than the ops of `ExpertBlock`, such as reordering their inputs, are left out.
    """
    ops = {op.node: op for op in quantized_expert_matmuls(model)}
    for op in ops.values():
        if (block := _block(op, ops)) is not None:
            yield block


def chosen_experts(graph: ir.Graph, index: ir.Value, experts: int, name: str) -> list[ir.Node]:
    """Nodes of which the last one's output is 1.0 where an expert is chosen and else 0.0, [T, k, E]."""
    numbers = constant(graph, f"experts.{experts}", np.arange(experts, dtype=np.int64))
    last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
    unsqueezed = make("Unsqueeze", [index, last], f"{name}.index")
    equal = make("Equal", [unsqueezed.outputs[0], numbers], f"{name}.is_chosen")
    return [unsqueezed, equal, make("Cast", [equal.outputs[0]], f"{name}.chosen", to=ir.DataType.FLOAT)]


def sums_over_experts(node: ir.Node) -> bool:
    """Whether `node` is a ReduceSum that makes [T, N] of [T, k, N]."""
    axes = optional_input(node, 1)
    values = ir.convenience.get_const_tensor(axes) if axes is not None else None
    keepdims = node.attributes.get("keepdims")
    if node.op_type != "ReduceSum" or values is None or keepdims is None:
        return False
    return keepdims.as_int() == 0 and values.numpy().tolist() == [1]


def _block(down: QuantizedExpertOp, ops: dict[ir.Node, QuantizedExpertOp]) -> ExpertBlock | None:
    index, tail, down_bias = down.index, [down.node], None
    reader = only_reader(tail[-1].outputs[0])
    if reader is not None and reader.op_type == "Add":
        gather = _other_input(reader, tail[-1].outputs[0]).producer()
        if gather is None or not _is_bias(gather, index):
            return None
        down_bias = input_of(gather, 0)
        tail.append(reader)
        reader = only_reader(reader.outputs[0])
    if reader is None or reader.op_type != "Mul":
        return None
    gates = _gates(_other_input(reader, tail[-1].outputs[0]))
    total = only_reader(reader.outputs[0])
    if gates is None or total is None or not sums_over_experts(total):
        return None
    tail += [reader, total]
    inner = _inner(down, ops)
    if inner is None:
        return None
    first = [ops[node] for node in inner if node in ops]
    bias = [node for node in inner if node.op_type == "GatherND"]
    between = [node for node in inner if node not in ops and node.op_type != "GatherND"]
    return ExpertBlock(first, bias, between, down, down_bias, index, gates, tail)


def _other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    first, second = input_of(node, 0), input_of(node, 1)
    return second if first is value else first


def _is_bias(node: ir.Node, index: ir.Value) -> bool:
    """Whether `node` gathers the rows `index` of a weight [E, N]."""
    if node.op_type != "GatherND" or not is_weight(node.inputs[0]) or len(sizes_of(input_of(node, 0))) != _RANK - 1:
        return False
    unsqueezed = input_of(node, 1).producer()
    return unsqueezed is not None and unsqueezed.op_type == "Unsqueeze" and unsqueezed.inputs[0] is index


def _gates(value: ir.Value) -> ir.Value | None:
    """The gates [T, k] of which `value` is [T, k, 1]."""
    node = value.producer()
    if node is None or node.op_type != "Unsqueeze" or sizes_of(value)[-1] != 1:
        return None
    gates = input_of(node, 0)
    return gates if sizes_of(value)[:-1] == sizes_of(gates) else None


def _inner(down: QuantizedExpertOp, ops: dict[ir.Node, QuantizedExpertOp]) -> list[ir.Node] | None:
    """The nodes that compute the input of `down` from the tokens, in topological order; None if one mixes experts."""
    found: set[ir.Node] = set()
    pending = [down.x]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node in found or _is_parameter(value):
            continue
        if node is None or node.graph is not down.node.graph:
            return None
        found.add(node)
        if node in ops:
            op = ops[node]
            if op.index is not down.index or sizes_of(op.x)[1] != 1:
                return None
        elif not _is_bias(node, down.index):
            if not _keeps_experts_apart(node):
                return None
            pending += [each for each in node.inputs if each is not None]
    inside = found | {down.node}
    values = [value for node in found for value in node.outputs]
    if any(value.is_graph_output() or any(use.node not in inside for use in value.uses()) for value in values):
        return None
    return [node for node in graph_of(down.node) if node in found]


def _is_parameter(value: ir.Value) -> bool:
    """Whether `value` is the same for all tokens and experts."""
    return is_weight(value) and len(sizes_of(value)) < _RANK - 1


def _keeps_experts_apart(node: ir.Node) -> bool:
    if node.domain:
        return False
    if node.op_type in _BY_ELEMENT:
        return True
    if node.op_type in _ALONG_THE_LAST_AXIS:
        return "axis" in node.attributes and attribute(node, "axis") in (-1, _RANK - 1)
    if node.op_type == "Slice":
        axes = optional_input(node, 3)
        return axes is not None and is_weight(axes) and values_of(axes).tolist() in ([2], [-1])
    return False
