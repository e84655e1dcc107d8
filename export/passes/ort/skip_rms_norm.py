"""RMSNormalization as ONNX Runtime has it: alone, or together with the residual addition before it."""

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import attribute, make, replace_node


def fuse_rms_norm(model: ir.Model) -> None:
    """Lower every RMSNormalization over the last axis, in place.

    Cases:
        1. of an Add of two tensors of its own shape: SkipSimplifiedLayerNormalization, whose fourth output is the sum;
        2. otherwise: SimplifiedLayerNormalization.
    """
    for node in list(model.graph):
        if node.op_type != "RMSNormalization" or node.domain != "":
            continue
        x, scale = node.inputs[:2]
        assert x is not None
        assert scale is not None
        epsilon = float(attribute(node, "epsilon")) if "epsilon" in node.attributes else 1e-5
        add = x.producer()
        name = node.outputs[0].name or "norm"
        if add is not None and add.op_type == "Add" and _same_shape(add) and not x.is_graph_output():
            fused = make(
                "SkipSimplifiedLayerNormalization",
                [*add.inputs, scale],
                name + ".skip",
                domain="com.microsoft",
                outputs=4,
                epsilon=epsilon,
            )
            # The sum is read at the Add's place by nodes that may stand before this one.
            model.graph.insert_before(add, fused)
            replace_node(node, [], [fused.outputs[0]])
            replace_node(add, [], [fused.outputs[3]])
        else:
            axis = int(attribute(node, "axis")) if "axis" in node.attributes else -1
            alone = make(
                "SimplifiedLayerNormalization", [x, scale], name + ".rms", axis=axis, epsilon=epsilon, stash_type=1
            )
            replace_node(node, [alone], [alone.outputs[0]])


def _same_shape(add: ir.Node) -> bool:
    a, b = add.inputs
    if a is None or b is None or a.is_initializer() or b.is_initializer() or a.shape is None or b.shape is None:
        return False
    if not len(a.shape) == len(b.shape) == 3:
        return False
    # Two unknown sizes are the same batch or length under different names; a known one is compared.
    return all(p == q or not (isinstance(p, int) or isinstance(q, int)) for p, q in zip(a.shape, b.shape, strict=True))
