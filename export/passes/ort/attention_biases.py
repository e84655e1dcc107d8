"""The input attention_bias of GroupQueryAttention, for what its attributes cannot say: chunks and ALiBi."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.attention_bias import MASKED, BiasKind, BiasNodes
from edgekiln.export.passes.common.tensors import constant


class AttentionBiases:
    """The biases of a graph; layers with the same share them.

    Args:
        graph: the graph, which gets the nodes.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[BiasKind, ir.Value | None], ir.Value] = {}

    def of(self, kind: BiasKind, total: ir.Value, start: ir.Value | None) -> ir.Value | None:
        """The bias float32 [B, 1, S, total] of a chunk, or [B, H, S, total] of ALiBi.

        Args:
            kind: its window does not count, as that is an attribute.
            total: int32, slots that the attention sees.
            start: int64[B], the position of slot 0; None for position 0.

        Returns:
            None for an attention without chunk and ALiBi.
        """
        kind = replace(kind, window=0)
        if not kind.chunk and not kind.slopes:
            return None
        if (kind, start) not in self._made:
            self._made[kind, start] = self._make(kind, total, start)
        return self._made[kind, start]

    def _make(self, kind: BiasKind, total: ir.Value, start: ir.Value | None) -> ir.Value:
        graph = self._graph
        new = BiasNodes(graph, f"bias.{kind.name}" + ("" if start is None else f".{start.name}"), [])
        positions = next(value for value in graph.inputs if value.name == "position_ids")
        query_axes = constant(graph, "bias.query_axes", np.array([1, 3], dtype=np.int64))
        batch_axes = constant(graph, "bias.batch_axes", np.array([1, 2, 3], dtype=np.int64))
        scalar = constant(graph, "bias.scalar", np.array([], dtype=np.int64))
        count = new.add("Cast", [new.add("Reshape", [total, scalar], "total")], "slots", to=ir.DataType.INT64.value)
        keys = new.add("Range", [new.integer(0), count, new.integer(1)], "keys")
        if start is not None:
            keys = new.add("Add", [keys, new.add("Unsqueeze", [start, batch_axes], "start")], "key_positions")
        queries = new.add("Unsqueeze", [positions, query_axes], "queries")
        bias = new.alibi(keys, queries, kind) if kind.slopes else None
        if kind.chunk:
            inside = new.in_chunk(keys, queries, kind.chunk)
            bias = new.add("Where", [inside, bias or new.number(0.0), new.number(MASKED)], "added")
        assert bias is not None
        after = total.producer()
        if after is None:
            graph.insert_before(graph[0], new.nodes)
        else:
            graph.insert_after(after, new.nodes)
        return bias
