"""Let the convolution and the scan of a Mamba layer read their halves of the projection in place."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.functions import recurrence
from edgekiln.export.passes.common.tensors import input_of, only_reader

_READERS = (recurrence.CAUSAL_CONV, recurrence.GATED_SELECTIVE_SCAN)
_Z = 6  # input of GatedSelectiveScan


class ReadMambaProjection(InPlacePass):
    """Remove the Split of tokens into the channels of a CausalConv and the gate of a GatedSelectiveScan.

    The kernels read the first and the last channels of what they get; the Split would copy both.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if (
                node.op_type != "Split"
                or node.domain
                or len(node.outputs) != 2
                or node.attributes["axis"].as_int() != 2
            ):
                continue
            conv, scan = (only_reader(part) for part in node.outputs)
            if conv is None or scan is None or (conv.op_type, scan.op_type) != _READERS:
                continue
            if conv.inputs[0] is node.outputs[0] and scan.inputs[_Z] is node.outputs[1]:
                conv.replace_input_with(0, input_of(node, 0))
                scan.replace_input_with(_Z, input_of(node, 0))
                modified = True
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)
