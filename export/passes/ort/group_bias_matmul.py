"""Lower QuantizedMatMul with a group bias to edgekiln.ort::GroupBiasMatMulNBits."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.group_bias_matmul import NAME, group_bias_matmul_function
from edgekiln.export.passes.common.quantized_ops import QuantizedOp, quantized_matmuls
from edgekiln.export.passes.common.tensors import make, replace_node, shape_of
from edgekiln.export.passes.ort.packed_weights import blocks, group_shape


class LowerToGroupBiasMatMul(InPlacePass):
    """Replace QuantizedMatMul with a group size and a group bias by GroupBiasMatMulNBits.

    Raises:
        ValueError: a node has zero points as well.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_matmuls(model):
            if op.group_size and not op.codebook and op.group_bias is not None:
                _lower(model, op, op.group_bias)
                modified = True
        return PassResult(model, modified)


def _lower(model: ir.Model, op: QuantizedOp, group_bias: ir.Value) -> None:
    if op.zero_points is not None:
        raise ValueError(f"{op.name} has zero points and a group bias")
    n, groups = shape_of(op.scales)
    add_function(model, group_bias_matmul_function())
    new = make(
        NAME,
        [op.x, blocks(model.graph, op), op.scales, group_bias],
        f"{op.name}.nbits",
        domain=DOMAIN,
        group_shape=group_shape(op.x, op.group_size),
        K=groups * op.group_size,
        N=n,
        bits=op.bits,
        block_size=op.group_size,
    )
    replace_node(op.node, [new], [new.outputs[0]])
