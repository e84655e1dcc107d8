"""Move the Slice of the last positions from the LM head up to the last attention.

No op after the last attention reads other positions, so in prefill the last layer's GEMMs then have m = 1.
"""

import onnx_ir as ir

from edgekiln.export.passes.common.tensors import attribute, is_weight, make, replace_node

# Ops that compute each position of [B, S, W] from the same position of their inputs.
_POSITIONWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Neg", "Sigmoid", "Tanh", "Erf", "Relu", "Gelu", "FastGelu", "QuickGelu"),
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
        *("MatMulNBits", "GroupBiasMatMulNBits", "CodebookMatMulNBits", "PerTokenInt8MatMul", "SwiGLU"),
    }
)


def hoist_logits_slice(model: ir.Model, slices: list[ir.Node]) -> None:
    """Move Slices of the last positions of [B, S, W] toward the inputs, in place.

    Args:
        model: the graph.
        slices: Slice nodes with the same start, end and axis.

    A Slice moves past every positionwise op whose results reach nothing but `slices`.
    """
    graph = model.graph
    _, *bounds = slices[0].inputs
    bound_nodes = [value.producer() for value in bounds if value is not None]
    sliced = set(slices)
    passed: list[ir.Node] = []
    for node in reversed(list(graph)):
        if node not in sliced and node not in bound_nodes and _positionwise(node) and _only_read_by(node, sliced):
            sliced.add(node)
            passed.append(node)
    if not passed:
        return
    hoisted: dict[ir.Value, ir.Value] = {}
    for node in reversed(passed):
        for index, value in enumerate(node.inputs):
            if value is None or is_weight(value) or value.producer() in sliced:
                continue
            if value not in hoisted:
                new = make("Slice", [value, *bounds], f"{value.name}.last")
                graph.insert_before(node, new)
                hoisted[value] = new.outputs[0]
            node.replace_input_with(index, hoisted[value])
    for node in slices:
        value = node.inputs[0]
        if value is not None and value.producer() in sliced:
            replace_node(node, [], [value])


def _positionwise(node: ir.Node) -> bool:
    values = [value for value in node.inputs if value is not None]
    activations = [value for value in values if not is_weight(value)]
    weights = [value for value in values if is_weight(value)]
    if node.op_type not in _POSITIONWISE or not activations:
        return False
    if "axis" in node.attributes and attribute(node, "axis") not in (-1, 2):
        return False
    # A weight of two dimensions or more could broadcast along the positions.
    if node.domain == "" and not all(value.shape is not None and len(value.shape) <= 1 for value in weights):
        return False
    return len(activations) == 1 or all(value.shape is not None and len(value.shape) == 3 for value in activations)


def _only_read_by(node: ir.Node, readers: set[ir.Node]) -> bool:
    uses = [user for output in node.outputs for user, _ in output.uses()]
    return bool(uses) and all(user in readers for user in uses) and not any(o.is_graph_output() for o in node.outputs)
