"""Make the number of positions that get logits a graph input, so that one run can verify several drafted tokens."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.hoist_logits_slice import hoist_logits_slice
from edgekiln.export.passes.common.scoring import forget_shapes, last_position_slices
from edgekiln.export.passes.common.tensors import make, sizes_of

LOGITS_TO_KEEP = "logits_to_keep"
# Ops whose ONNX Runtime CPU kernels sum in another order for one token than for several, so that a token verified
# together with others would get other bits than one decoded alone. Quantized GEMMs of edgekiln's kernels do not.
_BATCH_DEPENDENT = frozenset({"MatMul", "Gemm", "MatMulBnb4", "MatMulIntegerToFloat", "Einsum", "Conv"})


class AddLogitsToKeep(InPlacePass):
    """Add the input `logits_to_keep`: int64[1] K > 0, the number of last positions that get logits.

    The name and meaning are transformers'. Matches the Slice [-1:] of the positions in front of the LM head in a graph
    that is lowered for ort-cpu, and replaces its constant start by Neg(logits_to_keep). `logits` becomes [B, K, V].

    Cases:
        1. the graph has such a Slice: it is rewritten, then moved toward the inputs (`hoist_logits_slice`);
        2. the graph has none, or an op of `_BATCH_DEPENDENT`: it is left as it is.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        if any(node.op_type in _BATCH_DEPENDENT for node in model.graph):
            return PassResult(model, False)
        try:
            slices = last_position_slices(model)
        except UnsupportedModelError:
            return PassResult(model, False)
        count = ir.Value(name=LOGITS_TO_KEEP, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
        model.graph.inputs.append(count)
        start = make("Neg", [count], f"{LOGITS_TO_KEEP}.start")
        model.graph.insert_before(model.graph[0], start)
        for node in slices:
            node.replace_input_with(1, start.outputs[0])
        hoist_logits_slice(model, slices)
        forget_shapes(model)
        batch, _, vocabulary = sizes_of(model.graph.outputs[0])
        model.graph.outputs[0].shape = ir.Shape([batch, "K", vocabulary])
        return PassResult(model, True)


def logits_to_keep_input(model: ir.Model) -> str | None:
    """The name of the input `logits_to_keep`; None if the graph has none."""
    return next((value.name for value in model.graph.inputs if value.name == LOGITS_TO_KEEP), None)
