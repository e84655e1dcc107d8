"""The scoring variant of a graph: logits of every position instead of the last one."""

import onnx_ir as ir

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.common.tensors import replace_node, values_of
from edgekiln.export.passes.ort.two_pass_lm_head import inline_shortlist


def all_positions(model: ir.Model) -> None:
    """Drop the slices that keep the last positions, in place, and the input that says how many. All logits are exact.

    Raises:
        UnsupportedModelError: the way from the last hidden state to the logits holds no such slice.
    """
    inline_shortlist(model)
    slices = last_slices(model)
    shape = model.graph.outputs[0].shape
    assert shape is not None
    vocabulary = shape[2]
    for node in slices:
        value, start = node.inputs[:2]
        assert value is not None
        assert start is not None
        replace_node(node, [], [value])
        if start in model.graph.inputs:
            model.graph.inputs.remove(start)
    forget_shapes(model)
    tokens, logits = model.graph.inputs[0], model.graph.outputs[0]
    assert tokens.shape is not None
    logits.shape = ir.Shape([*tokens.shape, vocabulary])


def last_slices(model: ir.Model) -> list[ir.Node]:
    """What keeps the last positions between the last hidden state and the logits, from the logits back. Where an input
    says which they are, all that reads it.

    Raises:
        UnsupportedModelError: there is none.
    """
    found = [node for node in model.graph if _keeps_last(node) and node.inputs[1] in model.graph.inputs]
    if found:
        return found
    value: ir.Value | None = model.graph.outputs[0]
    while value is not None and (node := value.producer()) is not None:
        value = node.inputs[0]
        if node.op_type in ("Attention", "GroupQueryAttention"):
            break
        if _keeps_last(node):
            found.append(node)
        if node.op_type in ("SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"):
            break
    if not found:
        raise UnsupportedModelError("the graph has no slice of the last position, so it cannot be scored")
    return found


def forget_shapes(model: ir.Model) -> None:
    """Shapes inferred for one position would contradict those of several."""
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None


def _keeps_last(node: ir.Node) -> bool:
    if node.op_type != "Slice" or any(value is None or not value.is_initializer() for value in node.inputs[2:4]):
        return False
    start = node.inputs[1]
    assert start is not None
    _, axes = (values_of(value).tolist() for value in node.inputs[2:4])  # type: ignore[arg-type]
    first = values_of(start).tolist() if start.is_initializer() else None
    return axes == [1] and (start.is_graph_input() or first == [-1])
