"""Quantized canonical ops in standard ops: codes, DequantizeLinear and MatMul, without zero points.

Cases:
    1. QuantizedMatMul of 4 bits in groups: INT4 codes in blocks along the inputs. What zero points or offsets add is a
       second, small product: a group's offset times the sum of its inputs;
    2. with int8 activations a token: row-normalize, so that QuantizeLinear's one scale of 1/127 fits every row, INT8
       codes with a scale an output channel, and the row's size put back;
    3. other weights (8 bits in groups, codebooks) have no such form: they become float, exactly;
    4. QuantizedGather: rows of a float table, which a tied head shares.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.op_reference import dequantize
from edgekiln.export.passes.common.tensors import (
    Array,
    attribute,
    constant,
    make,
    new_initializer,
    replace_node,
    shape_of,
    values_of,
)

_INT8 = ir.DataType.INT8.value
# Keeps the quotient finite where a row is all zero, in binary16 too.
_SMALLEST_ROW_MAXIMUM = 1e-4


def lower_quantized_ops(model: ir.Model) -> None:
    """Lower every quantized canonical op, in place."""
    rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    sums: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in list(model.graph):
        if node.domain != canonical.DOMAIN:
            continue
        if node.op_type == "QuantizedGather":
            _gather(model.graph, node)
        elif node.op_type == "QuantizedMatMul":
            group_size, bits = int(attribute(node, "group_size")), int(attribute(node, "bits"))
            if not group_size:
                _per_token(model.graph, node, rows)
            elif bits == 4 and not _codebook(node):
                _int4(model.graph, node, group_size, sums)
            else:
                _float(model.graph, node)


def _inputs(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None, ir.Value | None]:
    """Input, weight, scales, zero points and offsets."""
    x, qweight, scales, zero_points, offsets = (*node.inputs, None, None)[:5]
    assert x is not None
    assert qweight is not None
    assert scales is not None
    return x, qweight, scales, zero_points, offsets


def _int4(graph: ir.Graph, node: ir.Node, group_size: int, sums: dict[tuple[ir.Value, int], ir.Value]) -> None:
    x, qweight, scales, zero_points, offsets = _inputs(node)
    rows, groups = shape_of(scales)
    name = node.outputs[0].name or "matmul"

    def codes() -> Array:
        packed = values_of(qweight).view(np.uint8)
        unsigned = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1)
        return (unsigned.T.astype(np.int8) - 8).astype(ir.DataType.INT4.numpy())

    weight = new_initializer(graph, f"{qweight.name}.int4", (groups * group_size, rows), ir.DataType.INT4, codes)
    scale = _transposed(graph, scales)
    unpacked = make("DequantizeLinear", [weight, scale], f"{name}.weight", axis=0, block_size=group_size)
    product = make("MatMul", [x, unpacked.outputs[0]], f"{name}.int4")
    if zero_points is None and offsets is None:
        replace_node(node, [unpacked, product], [product.outputs[0]])
        return

    def added() -> Array:
        zero = 8.0 if zero_points is None else values_of(zero_points).astype(np.float32)
        offset = 0.0 if offsets is None else values_of(offsets).astype(np.float32)
        total: npt.NDArray[Any] = values_of(scales).astype(np.float32) * (8.0 - zero) + offset
        return total.T

    offset = new_initializer(graph, f"{qweight.name}.offsets", (groups, rows), ir.DataType.FLOAT, added)
    new: list[ir.Node] = []
    if (x, group_size) not in sums:
        assert x.shape is not None
        by_group = [*[0] * (len(x.shape) - 1), -1, group_size]
        shape = constant(graph, f"groups.{'.'.join(map(str, by_group))}", np.array(by_group, dtype=np.int64))
        last = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
        split = make("Reshape", [x, shape], f"{x.name}.groups.{group_size}")
        new += [split, make("ReduceSum", [split.outputs[0], last], f"{x.name}.sums.{group_size}", keepdims=0)]
        sums[x, group_size] = new[-1].outputs[0]
    part = make("MatMul", [sums[x, group_size], offset], f"{name}.offset_part")
    total = make("Add", [product.outputs[0], part.outputs[0]], f"{name}.with_offsets")
    replace_node(node, [*new, unpacked, product, part, total], [total.outputs[0]])


def _per_token(graph: ir.Graph, node: ir.Node, quantized_rows: dict[ir.Value, tuple[ir.Value, ir.Value]]) -> None:
    x, qweight, scales, _, _ = _inputs(node)
    rows, columns = shape_of(qweight)
    name = node.outputs[0].name or "matmul"
    new: list[ir.Node] = []
    if x not in quantized_rows:
        unit = constant(graph, "row_scale", np.array(1 / 127, dtype=np.float32))
        axis = constant(graph, "last_axis", np.array([-1], dtype=np.int64))
        smallest = constant(graph, "smallest_row_maximum", np.array(_SMALLEST_ROW_MAXIMUM, dtype=np.float32))
        magnitude = make("Abs", [x], f"{x.name}.magnitude")
        largest = make("ReduceMax", [magnitude.outputs[0], axis], f"{x.name}.largest", keepdims=1)
        maximum = make("Max", [largest.outputs[0], smallest], f"{x.name}.row_maximum")
        quotient = make("Div", [x, maximum.outputs[0]], f"{x.name}.row_normalized")
        rounded = make("QuantizeLinear", [quotient.outputs[0], unit], f"{x.name}.codes", output_dtype=_INT8)
        back = make("DequantizeLinear", [rounded.outputs[0], unit], f"{x.name}.rounded")
        new += [magnitude, largest, maximum, quotient, rounded, back]
        quantized_rows[x] = (back.outputs[0], maximum.outputs[0])
    row, maximum_value = quantized_rows[x]
    weight = new_initializer(
        graph, f"{qweight.name}.transposed", (columns, rows), ir.DataType.INT8, lambda: values_of(qweight).T
    )
    unpacked = make("DequantizeLinear", [weight, scales], f"{name}.weight", axis=1)
    product = make("MatMul", [row, unpacked.outputs[0]], f"{name}.int8")
    scaled = make("Mul", [product.outputs[0], maximum_value], f"{name}.rescaled")
    replace_node(node, [*new, unpacked, product, scaled], [scaled.outputs[0]])


def _float(graph: ir.Graph, node: ir.Node) -> None:
    x = node.inputs[0]
    name = node.outputs[0].name or "matmul"
    columns = make("Transpose", [_table(graph, node)], f"{name}.weight", perm=[1, 0])
    product = make("MatMul", [x, columns.outputs[0]], f"{name}.float")
    replace_node(node, [columns, product], [product.outputs[0]])


def _gather(graph: ir.Graph, node: ir.Node) -> None:
    indices = node.inputs[0]
    name = node.outputs[0].name or "gather"
    rows = make("Gather", [_table(graph, node), indices], f"{name}.rows", axis=0)
    replace_node(node, [rows], [rows.outputs[0]])


def _codebook(node: ir.Node) -> str:
    return str(attribute(node, "codebook")) if "codebook" in node.attributes else ""


def _table(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """The float weight [N, K] of a quantized op."""
    _, qweight, scales, zero_points, offsets = _inputs(node)
    bits, group_size = int(attribute(node, "bits")), int(attribute(node, "group_size"))
    codebook = _codebook(node)
    rows, groups = shape_of(scales)

    def values() -> Array:
        return dequantize(
            values_of(qweight),
            values_of(scales),
            None if zero_points is None else values_of(zero_points),
            None if offsets is None else values_of(offsets),
            bits=bits,
            group_size=group_size,
            codebook=codebook,
        )

    return new_initializer(graph, f"{qweight.name}.float", (rows, groups * group_size), ir.DataType.FLOAT, values)


def _transposed(graph: ir.Graph, scales: ir.Value) -> ir.Value:
    rows, groups = shape_of(scales)
    return new_initializer(
        graph, f"{scales.name}.transposed", (groups, rows), ir.DataType.FLOAT, lambda: values_of(scales).T
    )
