"""Remove Transposes between tokens and channels that others undo."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from edgekiln.export.passes.common.new_nodes import NewNodes
from edgekiln.export.passes.common.tensors import replace_node, sizes_of
from edgekiln.export.passes.ort.match_recurrence import producer_of, tokens_first


class CancelTransposes(InPlacePass):
    """Keep tokens before channels, [B, S, C], where both orders meet.

    Cases:
        1. Transpose of a Transpose: their input;
        2. Split of the channels of a Transpose: Transposes of a Split, which case 1 removes then.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        modified = False
        for node in list(model.graph):
            modified |= _split_tokens(node) or _cancel(node)
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


def _split_tokens(node: ir.Node) -> bool:
    columns = node.inputs[0] if node.inputs else None
    tokens = tokens_first(columns) if columns is not None and producer_of(node.outputs[0], "Split") else None
    if tokens is None or node.attributes["axis"].as_int() != 1:
        return False
    nodes = NewNodes(node)
    attributes = {name: each.value for name, each in node.attributes.items() if name != "axis"}
    nodes.add("Split", [tokens, *node.inputs[1:]], "tokens", outputs=len(node.outputs), axis=2, **attributes)
    parts = nodes.new[0].outputs
    for part, old in zip(parts, node.outputs, strict=True):
        part.type = old.type
        if old.shape is not None:
            batch, channels, length = sizes_of(old)
            part.shape = ir.Shape([batch, length, channels])
    nodes.replace(*[nodes.add("Transpose", [part], f"columns.{i}", perm=[0, 2, 1]) for i, part in enumerate(parts)])
    return True


def _cancel(node: ir.Node) -> bool:
    columns = tokens_first(node.outputs[0])
    tokens = tokens_first(columns) if columns is not None else None
    if tokens is None or node.outputs[0].is_graph_output():
        return False
    if tokens.shape is None:
        tokens.shape, tokens.type = node.outputs[0].shape, node.outputs[0].type
    replace_node(node, [], [tokens])
    return True
