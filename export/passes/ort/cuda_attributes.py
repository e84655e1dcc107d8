"""Set attributes and types of ONNX Runtime's ops for the CUDA kernels and the conversion to float16."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import MICROSOFT


class SetCudaAttributes(InPlacePass):
    """Prepare ops of com.microsoft for CUDA.

    Cases:
        1. MatMulNBits: accuracy_level is removed. It has the CPU kernel quantize activations; CUDA's kernel does not;
        2. an op whose output has no type, as ONNX infers none for this domain: float32.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in model.graph:
            modified |= node.attributes.pop("accuracy_level", None) is not None
            if node.domain == MICROSOFT and node.outputs[0].type is None:
                node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
                modified = True
        return PassResult(model, modified)
