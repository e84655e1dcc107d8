"""The lengths of a batch's sequences, which attention over a shared KV buffer takes as inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.tensors import constant, make


@dataclass(frozen=True)
class SequenceLengths:
    """What attentions are told of the lengths of sequences.

    Attributes:
        seqlens_k: int32[B], the slot of the last new key.
        total: int32, the largest of them plus one.
        start: int64[B], the position of the first slot of a window buffer; None for other buffers.
    """

    seqlens_k: ir.Value
    total: ir.Value
    start: ir.Value | None = None


def sequence_lengths(
    graph: ir.Graph, total_length: ir.Value | None, windows: Sequence[int]
) -> dict[int, SequenceLengths]:
    """Compute the lengths from the last position ids, in front of all other nodes.

    Args:
        graph: gets the nodes, and an input for the start of the buffers of each window.
        total_length: as in `LowerToGroupQueryAttention`.
        windows: those of layers with window buffers.

    Returns:
        Those of the layers of each window, and with key 0 of all other layers.
    """
    positions = next(value for value in graph.inputs if value.name == "position_ids")
    batch = None if positions.shape is None else positions.shape[0]
    last = constant(graph, "last_index", np.array(-1, dtype=np.int64))
    nodes = [make("Gather", [positions, last], "last_position", axis=1)]
    last_position = nodes[0].outputs[0]
    lengths = {}
    for window in (0, *windows):
        suffix, last_slot, start = "", last_position, None
        if window:
            suffix = f".{window}"
            start = ir.Value(
                name=window_start_input(window), shape=ir.Shape([batch]), type=ir.TensorType(ir.DataType.INT64)
            )
            graph.inputs.append(start)
            nodes.append(make("Sub", [last_position, start], f"last_slot{suffix}"))
            last_slot = nodes[-1].outputs[0]
        nodes.append(make("Cast", [last_slot], f"seqlens_k{suffix}", to=ir.DataType.INT32.value))
        seqlens, total = nodes[-1].outputs[0], total_length
        if total is None:
            one = constant(graph, "one_int32", np.array(1, dtype=np.int32))
            nodes.append(make("ReduceMax", [seqlens], f"largest_seqlen_k{suffix}", keepdims=0))
            nodes.append(make("Add", [nodes[-1].outputs[0], one], f"total_sequence_length{suffix}"))
            total = nodes[-1].outputs[0]
        lengths[window] = SequenceLengths(seqlens, total, start)
    graph.insert_before(graph[0], nodes)
    return lengths


def window_start_input(window: int | str = "{window}") -> str:
    """The name of the graph input with the start of a window's buffers."""
    return f"window_start.{window}"
