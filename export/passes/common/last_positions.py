"""What follows the last attention, for the positions that get logits only.

Nothing after it looks at other positions, so the slice that keeps the last ones may stand right behind it: of a prompt,
the last layer's products then are of one row.
"""

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import attribute, is_weight, make, replace_node

# Ops that compute each position of [B, S, W] from the same position of their inputs.
_BY_POSITION = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Neg", "Sigmoid", "Tanh", "Erf", "Relu", "Gelu", "FastGelu", "QuickGelu"),
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
        *("MatMulNBits", "GroupBiasMatMulNBits", "PerTokenInt8MatMul", "SwiGLU"),
    }
)


def keep_early(model: ir.Model, slices: list[ir.Node]) -> None:
    """Move slices that keep the last positions of [B, S, W] toward the inputs, in place, past all such ops whose
    results only they read.
    """
    graph = model.graph
    late = set(slices)
    behind: list[ir.Node] = []
    for node in reversed(list(graph)):
        if node not in late and _by_position(node) and _read_by(node, late):
            late.add(node)
            behind.append(node)
    if not behind:
        return
    _, *which = slices[0].inputs
    kept: dict[ir.Value, ir.Value] = {}
    for node in reversed(behind):
        for index, value in enumerate(node.inputs):
            if value is None or is_weight(value) or value.producer() in late:
                continue
            if value not in kept:
                new = make("Slice", [value, *which], f"{value.name}.last")
                graph.insert_before(node, new)
                kept[value] = new.outputs[0]
            node.replace_input_with(index, kept[value])
    for node in slices:
        value = node.inputs[0]
        if value is not None and value.producer() in late:
            replace_node(node, [], [value])


def _by_position(node: ir.Node) -> bool:
    values = [value for value in node.inputs if value is not None]
    moving = [value for value in values if not is_weight(value)]
    constant = [value for value in values if is_weight(value)]
    if node.op_type not in _BY_POSITION or not moving:
        return False
    if "axis" in node.attributes and attribute(node, "axis") not in (-1, 2):
        return False
    # A weight of an op that has several moving inputs, or of an elementwise one, is as wide as a position at most.
    if node.domain == "" and not all(value.shape is not None and len(value.shape) <= 1 for value in constant):
        return False
    return len(moving) == 1 or all(value.shape is not None and len(value.shape) == 3 for value in moving)


def _read_by(node: ir.Node, readers: set[ir.Node]) -> bool:
    uses = [user for output in node.outputs for user, _ in output.uses()]
    return bool(uses) and all(user in readers for user in uses) and not any(o.is_graph_output() for o in node.outputs)
