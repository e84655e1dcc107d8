"""The scoring variant of a graph: logits of every position instead of the last ones."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.functions.rotary_attention import ATTENTIONS
from edgekiln.export.passes.common.tensors import input_of, inputs_of, replace_node, sizes_of, values_of
from edgekiln.export.passes.ort.two_pass_lm_head import InlineTwoPassLMHead

_LAST_NORMS = ("SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")


class ScoreAllPositions(InPlacePass):
    """Remove the Slice of the last positions, so that `logits` is [B, S, V].

    Cases:
        1. a Slice with the constant start -1: removed;
        2. a Slice whose start comes from the input `logits_to_keep`: removed together with the input;
        3. TwoPassMatMulNBits: inlined to MatMulNBits, so that every logit is exact.

    Raises:
        UnsupportedModelError: no such Slice is between the last hidden state and the logits.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        InlineTwoPassLMHead()(model)
        graph = model.graph
        slices = last_position_slices(model)
        batch, length = sizes_of(graph.inputs[0])
        _, _, vocabulary = sizes_of(graph.outputs[0])
        for node in slices:
            value, start = inputs_of(node, 2)
            negation = start.producer() if _starts_at_input(node) else None
            replace_node(node, [], [value])
            if negation is not None and not start.uses():
                count = input_of(negation, 0)
                graph.remove(negation, safe=True)
                graph.inputs.remove(count)
        forget_shapes(model)
        graph.outputs[0].shape = ir.Shape([batch, length, vocabulary])
        return PassResult(model, True)


def last_position_slices(model: ir.Model) -> list[ir.Node]:
    """The Slice nodes that keep the last positions, from the logits back to the last hidden state.

    With an input `logits_to_keep` these are all Slices that depend on it, wherever they lie.

    Raises:
        UnsupportedModelError: there is none.
    """
    found = [node for node in model.graph if _keeps_last(node) and _starts_at_input(node)]
    if found:
        return found
    value: ir.Value | None = model.graph.outputs[0]
    while value is not None and (node := value.producer()) is not None:
        value = node.inputs[0]
        if node.op_type in {"Attention", *ATTENTIONS}:
            break
        if _keeps_last(node):
            found.append(node)
        if node.op_type in _LAST_NORMS:
            break
    if not found:
        raise UnsupportedModelError("the graph has no slice of the last position, so it cannot be scored")
    return found


def forget_shapes(model: ir.Model) -> None:
    """Drop inferred shapes of intermediate values, which were those of one position."""
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None


def _starts_at_input(node: ir.Node) -> bool:
    """Whether the start of a Slice is Neg of a graph input."""
    negation = input_of(node, 1).producer()
    return negation is not None and negation.op_type == "Neg" and input_of(negation, 0).is_graph_input()


def _keeps_last(node: ir.Node) -> bool:
    if node.op_type != "Slice" or any(value is None or not value.is_initializer() for value in node.inputs[2:4]):
        return False
    start = input_of(node, 1)
    if values_of(input_of(node, 3)).tolist() != [1]:
        return False
    return values_of(start).tolist() == [-1] if start.is_initializer() else _starts_at_input(node)
