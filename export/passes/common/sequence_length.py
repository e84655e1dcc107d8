"""Lower edgekiln::SequenceLength, by which rotary frequencies change with a sequence's length, to a graph input."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.export.passes.common.tensors import attribute, constant, input_of, replace_node, sizes_of

SEQUENCE_LENGTH = "sequence_length"


class LowerSequenceLength(InPlacePass):
    """Replace every SequenceLength by one value.

    A run on a part of a prompt does not tell the prompt's length, so it is a graph input.

    Cases:
        1. sequences of up to `max_length` tokens reach the limit of a node: the input `sequence_length`, int64[B];
        2. otherwise: the constant 1, with which the graph is that of short sequences.

    Args:
        max_length: tokens of a sequence, at most; 0 for case 2.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self._max_length = max_length

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        nodes = _nodes(model)
        if not nodes:
            return PassResult(model, False)
        if recompute_beyond(model, self._max_length) is None:
            value = constant(model.graph, SEQUENCE_LENGTH, np.ones(1, dtype=np.int64))
        else:
            batch = sizes_of(input_of(nodes[0], 0))[0]
            value = ir.Value(name=SEQUENCE_LENGTH, shape=ir.Shape([batch]), type=ir.TensorType(ir.DataType.INT64))
            model.graph.inputs.append(value)
        for node in nodes:
            replace_node(node, [], [value])
        return PassResult(model, True)


def recompute_beyond(model: ir.Model, max_length: int) -> int | None:
    """The length beyond which a canonical graph computes other keys; None if sequences do not become longer."""
    limits = {int(attribute(node, "limit")) for node in _nodes(model)}
    return min(limits) if limits and min(limits) < max_length else None


def sequence_length_input(model: ir.Model) -> str | None:
    """The name of the input `sequence_length`; None if the graph has none."""
    return next((value.name for value in model.graph.inputs if value.name == SEQUENCE_LENGTH), None)


def _nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "SequenceLength"]
