"""Weights, zero points and codebooks in the layouts of ONNX Runtime's quantized ops and those of edgekiln.ort."""

from typing import cast

import numpy as np
import onnx_ir as ir

from edgekiln.calib.formats.scheme import Codebook
from edgekiln.calib.formats.weight import INTEGER_CODEBOOKS
from edgekiln.export.passes.common.quantized_ops import QuantizedOp
from edgekiln.export.passes.common.tensors import Array, constant, new_initializer, shape_of, sizes_of, values_of


def blocks(graph: ir.Graph, op: QuantizedOp) -> ir.Value:
    """The codes of a weight in groups as MatMulNBits takes them, uint8 [..., N, groups, group_size · bits / 8].

    The bytes are those of `qweight`, which a tied embedding reads; `WeightsFile` stores them once.
    """
    shape = (*shape_of(op.scales), op.group_size * op.bits // 8)
    return new_initializer(
        graph, f"{op.qweight.name}.blocks", shape, ir.DataType.UINT8, lambda: values_of(op.qweight).reshape(shape)
    )


def packed_zero_points(graph: ir.Graph, zero_points: ir.Value, bits: int) -> ir.Value:
    """Zero points [..., groups] as MatMulNBits takes them: 4-bit ones two a byte, low nibble first."""
    if bits == 8:
        return zero_points
    *rows, groups = shape_of(zero_points)

    def packed() -> Array:
        added = [*[(0, 0)] * len(rows), (0, groups % 2)]
        values = np.pad(values_of(zero_points).astype(np.uint8, copy=False), added)
        return values[..., 0::2] | (values[..., 1::2] << 4)

    return new_initializer(graph, f"{zero_points.name}.packed", (*rows, (groups + 1) // 2), ir.DataType.UINT8, packed)


def has_integer_codebook(op: QuantizedOp) -> bool:
    """Whether the codes of a weight index a codebook of integers."""
    return op.codebook in INTEGER_CODEBOOKS


def codebook_values(graph: ir.Graph, op: QuantizedOp) -> ir.Value:
    """The codebook of a weight for which `has_integer_codebook` holds, int8 [16]; all weights share one."""
    return constant(graph, f"codebook.{op.codebook}", INTEGER_CODEBOOKS[cast(Codebook, op.codebook)])


def group_shape(x: ir.Value, group_size: int) -> list[int]:
    """The shape that Reshape takes to split the last axis of `x` into groups."""
    return [*[0] * (len(sizes_of(x)) - 1), -1, group_size]
