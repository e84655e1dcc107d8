"""Compute equal cosines and sines of RotaryEmbedding once; exporters compute them for each query and key."""

from collections.abc import Hashable

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.tensors import ancestors

_PLAIN = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING, ir.AttributeType.INTS)


class ShareAngles(InPlacePass):
    """Merge equal nodes among those that compute the cosines and sines of RotaryEmbedding nodes.

    Attentions of equal angles then read the same values, by which passes recognize them.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        rotations = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
        nodes, _ = ancestors([value for node in rotations for value in node.inputs[1:3] if value is not None])
        first: dict[Hashable, ir.Node] = {}
        merged = False
        for node in model.graph:
            if node not in nodes or any(attribute.type not in _PLAIN for attribute in node.attributes.values()):
                continue
            kept = first.setdefault(_key(node), node)
            if kept is not node:
                merged = True
                for old, new in zip(node.outputs, kept.outputs, strict=True):
                    ir.convenience.replace_all_uses_with(old, new)
        return PassResult(model, merged)


def _key(node: ir.Node) -> Hashable:
    """Equal for nodes that compute the same."""
    attributes = sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
    return node.domain, node.op_type, tuple(node.inputs), tuple(attributes), len(node.outputs)
