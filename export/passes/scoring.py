"""The scoring variant of a graph: logits of every position instead of the last one."""

import onnx_ir as ir

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.passes.tensors import replace_node, values_of


def all_positions(model: ir.Model) -> None:
    """Drop the slice that keeps the last position, in place.

    Raises:
        UnsupportedModelError: the way from the last hidden state to the logits holds no such slice.
    """
    value: ir.Value | None = model.graph.outputs[0]
    assert value is not None
    assert value.shape is not None
    vocabulary = value.shape[2]
    dropped = False
    while value is not None and (node := value.producer()) is not None:
        value = node.inputs[0]
        if node.op_type in ("Attention", "GroupQueryAttention"):
            break
        if _keeps_last(node):
            assert value is not None
            replace_node(node, [], [value])
            dropped = True
        if node.op_type in ("SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"):
            break
    if not dropped:
        raise UnsupportedModelError("the graph has no slice of the last position, so it cannot be scored")
    for node in model.graph:
        for output in node.outputs:
            if output.is_graph_output():
                continue
            # Shapes inferred for one position would contradict the new ones.
            output.shape = None
    tokens, logits = model.graph.inputs[0], model.graph.outputs[0]
    assert tokens.shape is not None
    logits.shape = ir.Shape([*tokens.shape, vocabulary])


def _keeps_last(node: ir.Node) -> bool:
    if node.op_type != "Slice" or any(value is None or not value.is_initializer() for value in node.inputs[1:4]):
        return False
    starts, _, axes = (values_of(value).tolist() for value in node.inputs[1:4])  # type: ignore[arg-type]
    return starts == [-1] and axes == [1]
