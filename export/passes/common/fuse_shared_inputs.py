"""Fuse linear layers that read the same input: query, key and value; gate and up."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import (
    attribute,
    concatenated,
    constant,
    graph_of,
    inputs_of,
    is_weight,
    make,
    optional_input,
    replace_node,
    shape_of,
    values_of,
)

_WEIGHT_INPUTS = ("qweight", "scales", "zero_points", "group_bias")
_INPUT_SCALE = 5


class FuseSharedInputs(InPlacePass):
    """Fuse QuantizedMatMul, or MatMul, nodes of the same input to one with concatenated weights, and a Split.

    Cases:
        1. QuantizedMatMul nodes with the same attributes and optional inputs, and the same input scale if it is static;
        2. MatMul nodes whose weight is a Transpose of an initializer [N, K];
        3. every layer of a group has a bias: the Adds become one Add of the concatenated bias in front of the Split;
        4. layers with static int8 activations are fused only where they feed Attention, which takes query, key and
           value packed. They share the quantized input anyway, so that fusing gate and up would only add a copy.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        groups: dict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
        for node in model.graph:
            if _output_size(node) is not None:
                kind = [str(node.attributes[key].value) for key in sorted(node.attributes)]
                given = tuple(value is not None for value in node.inputs)
                groups[node.inputs[0], node.op_type, given, _input_scale(node), *kind].append(node)
        modified = False
        for nodes in groups.values():
            if len(nodes) > 1 and (not _is_static(nodes[0]) or all(_feeds_attention(node) for node in nodes)):
                _fuse(model.graph, nodes)
                modified = True
        return PassResult(model, modified)


def _is_static(node: ir.Node) -> bool:
    return node.op_type == "QuantizedMatMul" and attribute(node, "activation") == "int8-static"


def _input_scale(node: ir.Node) -> float | None:
    """The scale of static int8 activations; fused layers must have one scale."""
    scale = optional_input(node, _INPUT_SCALE)
    return None if scale is None else float(values_of(scale))


def _feeds_attention(node: ir.Node) -> bool:
    """Whether an output reaches Attention without another linear layer in between."""
    pending, seen = [node], {node}
    while pending:
        for output in pending.pop().outputs:
            for user, _ in output.uses():
                if user.op_type == "Attention":
                    return True
                if user not in seen and user.op_type not in ("MatMul", "QuantizedMatMul"):
                    seen.add(user)
                    pending.append(user)
    return False


def _float_weight(node: ir.Node) -> ir.Value | None:
    """The initializer [N, K] that a MatMul reads through a Transpose; None for any other node."""
    transpose = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
    if transpose is None or transpose.op_type != "Transpose" or not is_weight(transpose.inputs[0]):
        return None
    (weight,) = inputs_of(transpose, 1)
    return weight if len(shape_of(weight)) == 2 else None


def _output_size(node: ir.Node) -> int | None:
    """N of a linear layer that can be fused; None for any other node."""
    if node.op_type == "QuantizedMatMul" and node.domain == canonical.DOMAIN:
        return shape_of(inputs_of(node, 2)[1])[0]
    weight = _float_weight(node)
    return None if weight is None else shape_of(weight)[0]


def _bias(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Add that alone reads a linear layer, and the bias [N] that it adds."""
    users = [use.node for use in node.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    other = next((value for value in users[0].inputs if value is not None and value is not node.outputs[0]), None)
    return (users[0], other) if other is not None and is_weight(other) and len(shape_of(other)) == 1 else None


def _fuse(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    first = nodes[0]
    name = f"{first.outputs[0].name}.fused"
    new = _fused_float(graph, nodes, name) if first.op_type == "MatMul" else [_fused_quantized(graph, nodes, name)]
    found = [_bias(node) for node in nodes]
    biases = [bias for bias in found if bias is not None]
    replaced = list(nodes)
    if len(biases) == len(nodes):
        bias = concatenated(graph, f"{name}.bias", [vector for _, vector in biases])
        new.append(make("Add", [new[-1].outputs[0], bias], f"{name}.biased"))
        replaced = [add for add, _ in biases]
    sizes = [_output_size(node) for node in nodes]
    split_sizes = constant(graph, f"sizes.{'.'.join(map(str, sizes))}", np.array(sizes, dtype=np.int64))
    split = make("Split", [new[-1].outputs[0], split_sizes], f"{name}.parts", outputs=len(nodes), axis=-1)
    graph.insert_before(first, [*new, split])
    for node, part in zip(replaced, split.outputs, strict=True):
        part.shape, part.type = node.outputs[0].shape, node.outputs[0].type
        replace_node(node, [], [part])
    for node in nodes:
        if node.graph is not None:
            graph_of(node).remove(node, safe=True)


def _fused_float(graph: ir.Graph, nodes: Sequence[ir.Node], name: str) -> list[ir.Node]:
    weights = [weight for weight in map(_float_weight, nodes) if weight is not None]
    transpose = make("Transpose", [concatenated(graph, f"{name}.weight", weights)], f"{name}.transposed", perm=[1, 0])
    return [transpose, make("MatMul", [nodes[0].inputs[0], transpose.outputs[0]], name)]


def _fused_quantized(graph: ir.Graph, nodes: Sequence[ir.Node], name: str) -> ir.Node:
    first = nodes[0]
    weights: list[ir.Value | None] = []
    for index, part in enumerate(_WEIGHT_INPUTS[: len(first.inputs) - 1], start=1):
        values = [value for node in nodes if (value := node.inputs[index]) is not None]
        weights.append(concatenated(graph, f"{name}.{part}", values) if values else None)
    inputs = [first.inputs[0], *weights, *first.inputs[_INPUT_SCALE:]]
    fused = ir.Node(first.domain, first.op_type, inputs, list(first.attributes.values()))
    fused.outputs[0].name = name
    return fused
