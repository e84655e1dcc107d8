"""Fuse residual Add + RMSNormalization into com.microsoft::SkipSimplifiedLayerNormalization."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.functions.post_attention import SKIP_RMS_NORM
from edgekiln.export.passes.common.tensors import attribute, inputs_of, make, name_of, replace_node


class FuseSkipRMSNorm(InPlacePass):
    """Lower every RMSNormalization over the last axis.

    Cases:
        1. of an Add of two tensors of the same shape: SkipSimplifiedLayerNormalization, whose fourth output is the sum;
        2. of anything else: SimplifiedLayerNormalization.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "RMSNormalization" and node.domain == "":
                _lower(model.graph, node)
                modified = True
        return PassResult(model, modified)


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    x, scale = inputs_of(node, 2)
    epsilon = float(attribute(node, "epsilon")) if "epsilon" in node.attributes else 1e-5
    add = x.producer()
    name = name_of(node)
    if add is not None and add.op_type == "Add" and _same_shape(add) and not x.is_graph_output():
        inputs = [*add.inputs, scale]
        fused = make(SKIP_RMS_NORM, inputs, name + ".skip", domain=MICROSOFT, outputs=4, epsilon=epsilon)
        # Inserted at the Add: other nodes that read the sum may precede the norm.
        graph.insert_before(add, fused)
        replace_node(node, [], [fused.outputs[0]])
        replace_node(add, [], [fused.outputs[3]])
    else:
        axis = int(attribute(node, "axis")) if "axis" in node.attributes else -1
        norm = make("SimplifiedLayerNormalization", [x, scale], name + ".rms", axis=axis, epsilon=epsilon, stash_type=1)
        replace_node(node, [norm], [norm.outputs[0]])


def _same_shape(add: ir.Node) -> bool:
    a, b = add.inputs
    if a is None or b is None or a.is_initializer() or b.is_initializer() or a.shape is None or b.shape is None:
        return False
    if not len(a.shape) == len(b.shape) == 3:
        return False
    # Two symbolic sizes are the same batch or length under different names; static sizes are compared.
    return all(p == q or not (isinstance(p, int) or isinstance(q, int)) for p, q in zip(a.shape, b.shape, strict=True))
