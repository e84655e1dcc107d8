"""Fold constants and fuse RMSNormalization and RotaryEmbedding, mostly with onnxscript's own rules."""

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import InPlacePass, PassResult
from onnxscript.rewriter import onnx_fusions

from edgekiln.export.passes.common.scaled_rotary import FuseScaledRotary


class Simplify(InPlacePass):
    """Fold constants, remove no-ops, and fuse the ops of an RMS norm and of rotary embeddings.

    The fused ops are the standard RMSNormalization and RotaryEmbedding of opset 23. Initializers without values, which
    weights are before they are attached, are left alone.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        onnxscript.optimizer.optimize_ir(model)
        onnx_fusions.fuse(model)
        FuseScaledRotary()(model)
        # onnxscript does not say whether it changed anything.
        return PassResult(model, True)
