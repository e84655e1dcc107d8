"""Rewrite products with int8 activations to weight-only quantization, for runtimes without an int8 GEMM."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.quantized_ops import (
    QuantizedExpertOp,
    QuantizedOp,
    quantized_expert_matmuls,
    quantized_matmuls,
)
from edgekiln.export.passes.common.tensors import Array, make, new_initializer, replace_node, shape_of, values_of

# Group sizes that the kernels take, widest first.
_GROUP_SIZES = (128, 64, 32, 16)
_ZERO_POINT = 128


class MakeWeightOnly(InPlacePass):
    """Rewrite QuantizedMatMul and QuantizedExpertMatMul with per-channel int8 weights.

    Weights stay exact, activations are no longer quantized.

    Cases:
        1. K is divisible by a group size: 8 bits in groups, each with the scale of its channel;
        2. otherwise: MatMul or ExpertMatMul with the dequantized weight.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in [*quantized_matmuls(model), *quantized_expert_matmuls(model)]:
            if op.group_size:
                continue
            k = shape_of(op.qweight)[-1]
            group_size = next((size for size in _GROUP_SIZES if k % size == 0), None)
            if group_size is None:
                _to_float(model.graph, op)
            else:
                _to_groups(model.graph, op, group_size)
            modified = True
        return PassResult(model, modified)


def _to_groups(graph: ir.Graph, op: QuantizedOp, group_size: int) -> None:
    *rows, k = shape_of(op.qweight)
    groups = k // group_size

    def codes() -> Array:
        return (values_of(op.qweight).astype(np.int16) + _ZERO_POINT).astype(np.uint8)

    def scales() -> Array:
        return np.repeat(values_of(op.scales).reshape(*rows, 1), groups, axis=-1)

    weight = new_initializer(graph, f"{op.qweight.name}.unsigned", (*rows, k), ir.DataType.UINT8, codes)
    scale = new_initializer(graph, f"{op.scales.name}.by_group", (*rows, groups), ir.DataType.FLOAT, scales)
    new = make(
        op.node.op_type,
        [*_activations(op), weight, scale],
        f"{op.name}.weight_only",
        domain=op.node.domain,
        bits=8,
        group_size=group_size,
        activation="none",
        codebook="",
    )
    replace_node(op.node, [new], [new.outputs[0]])


def _to_float(graph: ir.Graph, op: QuantizedOp) -> None:
    *rows, k = shape_of(op.qweight)

    def dequantized() -> Array:
        return values_of(op.qweight).astype(np.float32) * values_of(op.scales).astype(np.float32).reshape(*rows, 1)

    weight = new_initializer(graph, f"{op.qweight.name}.float", (*rows, k), ir.DataType.FLOAT, dequantized)
    if isinstance(op, QuantizedExpertOp):
        new = [make("ExpertMatMul", [*_activations(op), weight], f"{op.name}.float", domain=op.node.domain)]
    else:
        transpose = make("Transpose", [weight], f"{op.name}.weight", perm=[1, 0])
        new = [transpose, make("MatMul", [op.x, transpose.outputs[0]], f"{op.name}.float")]
    replace_node(op.node, new, [new[-1].outputs[0]])


def _activations(op: QuantizedOp) -> list[ir.Value]:
    return [op.x, op.index] if isinstance(op, QuantizedExpertOp) else [op.x]
