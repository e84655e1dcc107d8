"""Fold constants, drop no-ops and recognise RMSNormalization and RotaryEmbedding, with onnxscript's own rules."""

import onnx_ir as ir
import onnxscript.optimizer
from onnxscript.rewriter import onnx_fusions


def simplify(model: ir.Model) -> None:
    """Simplify in place. Initializers without a value (weights not attached yet) are left alone."""
    onnxscript.optimizer.optimize_ir(model)
    onnx_fusions.fuse(model)
