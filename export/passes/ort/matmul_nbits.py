"""Lower QuantizedMatMul in groups to com.microsoft::MatMulNBits."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import make, replace_node, shape_of
from edgekiln.export.passes.ort.packed_weights import blocks, packed_zero_points

# The kernels quantize activations to int8 in blocks.
_ACCURACY_LEVEL = 4


class LowerToMatMulNBits(InPlacePass):
    """Replace QuantizedMatMul with a group size, and no group bias or codebook, by MatMulNBits."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_matmuls(model):
            if op.group_size and not op.codebook and op.group_bias is None:
                _lower(model.graph, op)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, op: QuantizedOp) -> None:
    inputs = [op.x, blocks(graph, op), op.scales]
    if op.zero_points is not None:
        inputs.append(packed_zero_points(graph, op.zero_points, op.bits))
    n, groups = shape_of(op.scales)
    new = make(
        "MatMulNBits",
        inputs,
        f"{op.name}.nbits",
        domain=MICROSOFT,
        accuracy_level=_ACCURACY_LEVEL,
        K=groups * op.group_size,
        N=n,
        bits=op.bits,
        block_size=op.group_size,
    )
    replace_node(op.node, [new], [new.outputs[0]])
