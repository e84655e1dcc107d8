"""Lower QuantizedMatMul with per-token int8 activations to edgekiln.ort::PerTokenInt8MatMul."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import DOMAIN, add_function
from edgekiln.export.functions.per_token_int8 import NAME, per_token_int8_function
from edgekiln.export.passes.common.per_channel import transposed_codes
from edgekiln.export.passes.common.quantized_ops import quantized_matmuls
from edgekiln.export.passes.common.tensors import make, replace_node, shape_of


class LowerToPerTokenInt8MatMul(InPlacePass):
    """Replace QuantizedMatMul with per-channel weights and per-token int8 activations by PerTokenInt8MatMul."""

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for op in quantized_matmuls(model):
            if op.group_size or op.codebook or op.activation == "int8-static":
                continue
            n, k = shape_of(op.qweight)
            add_function(model, per_token_int8_function())
            inputs = [op.x, transposed_codes(model.graph, op.qweight), op.scales]
            new = make(NAME, inputs, f"{op.name}.int8", domain=DOMAIN, K=k, N=n)
            replace_node(op.node, [new], [new.outputs[0]])
            modified = True
        return PassResult(model, modified)
