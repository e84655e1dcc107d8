"""Share the reordered input of layers with the same act-order, as query, key and value of a GPTQ checkpoint have."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.tensors import attribute, inputs_of, is_weight, replace_node, values_of


class ShareActOrder(InPlacePass):
    """Merge Gather nodes that reorder the same activations along the same axis by equal indices.

    Gathers from an initializer (embeddings) are left alone.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        seen: dict[tuple[ir.Value, int, bytes], ir.Value] = {}
        modified = False
        for node in list(model.graph):
            if node.op_type != "Gather" or node.domain or not is_weight(node.inputs[1]):
                continue
            data, indices = inputs_of(node, 2)
            if data.is_initializer():
                continue
            key = (data, int(attribute(node, "axis")), values_of(indices).tobytes())
            if key in seen:
                replace_node(node, [], [seen[key]])
                modified = True
            else:
                seen[key] = node.outputs[0]
        return PassResult(model, modified)
