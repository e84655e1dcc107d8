"""Linear layers that read the same input become one: query, key and value; gate and up.

Their weights are concatenated along the outputs and a Split hands each consumer its part. Biases go along when every
layer of the group has one. Layers with a static int8 input share its codes anyway, so there only query, key and value
are fused, which attention then takes packed; for gate and up the Split's copy would be a loss.
"""

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import (
    attribute,
    concatenated,
    constant,
    is_weight,
    make,
    shape_of,
    values_of,
)

_WEIGHT_INPUTS = ("qweight", "scales", "zero_points", "offsets")
_INPUT_SCALE = 5


def fuse_shared_inputs(model: ir.Model) -> None:
    """Fuse quantized layers, and float ones whose weight is a Transpose of an initializer [N, K], in place."""
    groups: dict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if _rows(node) is not None:
            kind = [str(node.attributes[key].value) for key in sorted(node.attributes)]
            given = tuple(value is not None for value in node.inputs)
            groups[node.inputs[0], node.op_type, given, _input_scale(node), *kind].append(node)
    for nodes in groups.values():
        if len(nodes) > 1 and (not _shares_codes(nodes[0]) or all(_feeds_attention(node) for node in nodes)):
            _fuse(model.graph, nodes)


def _shares_codes(node: ir.Node) -> bool:
    return node.op_type == "QuantizedMatMul" and attribute(node, "activation") == "int8-static"


def _input_scale(node: ir.Node) -> float | None:
    """The scale of a static input: layers can only be fused where it is one."""
    scale = node.inputs[_INPUT_SCALE] if len(node.inputs) > _INPUT_SCALE else None
    return None if scale is None else float(values_of(scale))


def _feeds_attention(node: ir.Node) -> bool:
    """Whether an output reaches Attention with no linear layer between."""
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


def _rows(node: ir.Node) -> int | None:
    """Outputs of a linear layer that can be fused, else None."""
    if node.op_type == "QuantizedMatMul" and node.domain == canonical.DOMAIN:
        assert node.inputs[1] is not None
        return shape_of(node.inputs[1])[0]
    if node.op_type == "MatMul" and node.inputs[1] is not None:
        producer = node.inputs[1].producer()
        if producer is not None and producer.op_type == "Transpose" and is_weight(producer.inputs[0]):
            assert producer.inputs[0] is not None
            shape = shape_of(producer.inputs[0])
            return shape[0] if len(shape) == 2 else None
    return None


def _bias(node: ir.Node) -> ir.Node | None:
    """The Add of a one-dimensional initializer that is the only user of a linear layer."""
    users = [use.node for use in node.outputs[0].uses()]
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    other = next((v for v in users[0].inputs if v is not node.outputs[0]), None)
    return users[0] if is_weight(other) and len(shape_of(other)) == 1 else None  # type: ignore[arg-type]


def _fuse(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    first = nodes[0]
    rows = [_rows(node) for node in nodes]
    name = f"{first.outputs[0].name}.fused"
    if first.op_type == "MatMul":
        producers = [node.inputs[1].producer() for node in nodes]  # type: ignore[union-attr]
        weight = concatenated(graph, f"{name}.weight", [p.inputs[0] for p in producers])  # type: ignore[union-attr, misc]
        transpose = make("Transpose", [weight], f"{name}.transposed", perm=[1, 0])
        new = [transpose, make("MatMul", [first.inputs[0], transpose.outputs[0]], name)]
    else:
        parts = [
            first.inputs[i] and concatenated(graph, f"{name}.{what}", [node.inputs[i] for node in nodes])  # type: ignore[misc]
            for i, what in enumerate(_WEIGHT_INPUTS[: len(first.inputs) - 1], start=1)
        ]
        parts += first.inputs[_INPUT_SCALE:]
        fused = ir.Node(first.domain, first.op_type, [first.inputs[0], *parts], list(first.attributes.values()))
        fused.outputs[0].name = name
        new = [fused]
    biases = [_bias(node) for node in nodes]
    replaced = nodes
    if all(biases):
        vectors = [next(v for v in add.inputs if is_weight(v)) for add in biases if add is not None]
        bias = concatenated(graph, f"{name}.bias", vectors)  # type: ignore[arg-type]
        new.append(make("Add", [new[-1].outputs[0], bias], f"{name}.biased"))
        replaced = [add for add in biases if add is not None]
    sizes = constant(graph, f"sizes.{'.'.join(map(str, rows))}", np.array(rows, dtype=np.int64))
    split = make("Split", [new[-1].outputs[0], sizes], f"{name}.parts", outputs=len(nodes), axis=-1)
    graph.insert_before(first, [*new, split])
    for node, part in zip(replaced, split.outputs, strict=True):
        part.shape, part.type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_all_uses_with(node.outputs[0], part)
    for node in (*(replaced if replaced is not nodes else ()), *nodes):
        graph.remove(node, safe=True)
