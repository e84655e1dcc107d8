"""8-bit weights with a scale an output channel, as weights in groups, for runtimes without an int8 matrix product."""

import numpy as np
import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import (
    Array,
    attribute,
    make,
    new_initializer,
    replace_node,
    shape_of,
    values_of,
)

# What the kernels take, widest first: every group repeats its channel's scale.
_GROUP_SIZES = (128, 64, 32, 16)
_MIDDLE = 128


def weights_only(model: ir.Model) -> None:
    """Rewrite QuantizedMatMul with int8 activations, in place: the same weights exactly, the activations not rounded.

    A layer whose inputs divide by none of the group sizes gets its weights as float.
    """
    for node in list(model.graph):
        if node.domain == canonical.DOMAIN and node.op_type == "QuantizedMatMul" and not attribute(node, "group_size"):
            _rewrite(model.graph, node)


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    x, qweight, scales = node.inputs[:3]
    assert qweight is not None
    assert scales is not None
    rows, columns = shape_of(qweight)
    group_size = next((size for size in _GROUP_SIZES if columns % size == 0), None)
    if group_size is None:
        _float(graph, node, qweight, scales)
        return
    groups = columns // group_size

    def codes() -> Array:
        return (values_of(qweight).astype(np.int16) + _MIDDLE).astype(np.uint8)

    def repeated() -> Array:
        return np.repeat(values_of(scales).reshape(rows, 1), groups, axis=1)

    weight = new_initializer(graph, f"{qweight.name}.unsigned", (rows, columns), ir.DataType.UINT8, codes)
    scale = new_initializer(graph, f"{scales.name}.by_group", (rows, groups), ir.DataType.FLOAT, repeated)
    attributes = [
        ir.AttrInt64("bits", 8),
        ir.AttrInt64("group_size", group_size),
        ir.AttrString("activation", "none"),
        ir.AttrString("codebook", ""),
    ]
    new = ir.Node(node.domain, node.op_type, [x, weight, scale], attributes)
    new.outputs[0].name = f"{node.outputs[0].name}.weights_only"
    replace_node(node, [new], [new.outputs[0]])


def _float(graph: ir.Graph, node: ir.Node, qweight: ir.Value, scales: ir.Value) -> None:
    rows, columns = shape_of(qweight)

    def values() -> Array:
        return values_of(qweight).astype(np.float32) * values_of(scales).astype(np.float32).reshape(rows, 1)

    name = node.outputs[0].name or "matmul"
    weight = new_initializer(graph, f"{qweight.name}.float", (rows, columns), ir.DataType.FLOAT, values)
    transposed = make("Transpose", [weight], f"{name}.weight", perm=[1, 0])
    product = make("MatMul", [node.inputs[0], transposed.outputs[0]], f"{name}.float")
    replace_node(node, [transposed, product], [product.outputs[0]])
