"""Lower QuantizedMatMul with a codebook of integers to edgekiln.ort::CodebookMatMulNBits."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.codebook_matmul import NAME, codebook_matmul_function
from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import make, replace_node, shape_of
from edgekiln.export.passes.ort.packed_weights import blocks, codebook_values, has_integer_codebook


class LowerToCodebookMatMul(InPlacePass):
    """Replace QuantizedMatMul with a codebook of integers by CodebookMatMulNBits."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_matmuls(model):
            if has_integer_codebook(op):
                _lower(model, op)
                modified = True
        return PassResult(model, modified)


def _lower(model: ir.Model, op: QuantizedOp) -> None:
    n, groups = shape_of(op.scales)
    add_function(model, codebook_matmul_function())
    new = make(
        NAME,
        [op.x, blocks(model.graph, op), op.scales, codebook_values(model.graph, op)],
        f"{op.name}.nbits",
        domain=DOMAIN,
        K=groups * op.group_size,
        N=n,
        bits=op.bits,
        block_size=op.group_size,
    )
    replace_node(op.node, [new], [new.outputs[0]])
