"""Lower QuantizedMatMul with the NF4 codebook to com.microsoft::MatMulBnb4."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import Array, make, new_initializer, replace_node, shape_of, values_of

# Codebook to MatMulBnb4's attribute quant_type.
_QUANT_TYPES = {"nf4": 1}


class LowerToMatMulBnb4(InPlacePass):
    """Replace QuantizedMatMul with the codebook NF4 by MatMulBnb4, whose codes are packed high nibble first."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_matmuls(model):
            if op.codebook in _QUANT_TYPES:
                _lower(model.graph, op)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp) -> None:
    n, groups = shape_of(op.scales)
    k = groups * op.group_size

    def high_nibble_first() -> Array:
        codes = values_of(op.qweight).astype(np.uint8, copy=False).reshape(-1)
        return codes << 4 | codes >> 4

    def flat_scales() -> Array:
        return values_of(op.scales).reshape(-1)

    weight = new_initializer(graph, f"{op.qweight.name}.bnb4", (n * k // 2,), ir.DataType.UINT8, high_nibble_first)
    scales = new_initializer(graph, f"{op.scales.name}.flat", (n * groups,), ir.DataType.FLOAT, flat_scales)
    quant_type = _QUANT_TYPES[op.codebook]
    new = make(
        "MatMulBnb4",
        [op.x, weight, scales],
        f"{op.name}.bnb4",
        domain=MICROSOFT,
        K=k,
        N=n,
        block_size=op.group_size,
        quant_type=quant_type,
    )
    replace_node(op.node, [new], [new.outputs[0]])
