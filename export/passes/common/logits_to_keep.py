"""Which positions get logits becomes an input: one run then max_verify_tokens several drafted tokens.

The slice that keeps the last position takes its start from `logits_start`, int64[1], instead of the constant -1: logits
are those of the last K positions for [-K], and -1 costs what the constant did.
"""

import onnx_ir as ir

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.last_positions import keep_early
from edgekiln.export.passes.common.scoring import forget_shapes, last_slices

LOGITS_START = "logits_start"
# Products that ONNX Runtime's own kernels compute, which add up in another order for one row than for several: tokens
# verified together would not get the bits that they get one by one.
_OTHER_BITS = ("MatMul", "Gemm", "MatMulBnb4", "MatMulIntegerToFloat", "Einsum", "Conv")


def choose_positions(model: ir.Model) -> None:
    """Give a graph lowered for ort-cpu the input, in place; one without such a slice, or with a product that edgekiln
    has no kernel for, stays as it is.
    """
    if any(node.op_type in _OTHER_BITS for node in model.graph):
        return
    try:
        slices = last_slices(model)
    except UnsupportedModelError:
        return
    start = ir.Value(name=LOGITS_START, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(start)
    for node in slices:
        node.replace_input_with(1, start)
    keep_early(model, slices)
    forget_shapes(model)
    logits = model.graph.outputs[0]
    assert logits.shape is not None
    logits.shape = ir.Shape([logits.shape[0], "K", logits.shape[2]])


def logits_start_of(model: ir.Model) -> str | None:
    """The name of the input, where the graph has it."""
    return next((value.name for value in model.graph.inputs if value.name == LOGITS_START), None)
