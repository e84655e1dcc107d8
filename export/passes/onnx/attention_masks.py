"""Attention masks of standard ops for the growing and the in-place KV cache."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.attention_bias import MASKED, BiasKind, BiasNodes
from edgekiln.export.passes.common.tensors import constant, input_of, make


@dataclass
class AttentionMasks:
    """Masks that are added to the scores, float32 [B, 1 or H, S, T]: 0 or a bias for visible keys, -30000 for others.

    Cases:
        1. a growing cache: queries and keys are counted in cache slots; slots before `start` are left padding;
        2. an in-place cache: they are counted in positions, and `write_indices` int64[B] are the first slots to write.

    Attributes:
        graph: the graph, which gets the nodes.
        first: its first Attention.
        growing: case 1.
        write_indices: in case 2, the input of TensorScatter.
    """

    graph: ir.Graph
    first: ir.Node
    growing: bool
    write_indices: ir.Value | None = None
    _made: dict[BiasKind, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = next(value for value in self.graph.inputs if value.name == "position_ids")
        past, start = input_of(self.first, 3), input_of(self.first, 5)
        nodes: list[ir.Node] = []

        def add(op: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
            nodes.append(make(op, inputs, name, **attributes))
            return nodes[-1].outputs[0]

        zero, one = (constant(self.graph, f"mask.{i}", np.array(i, dtype=np.int64)) for i in (0, 1))
        query_axes = constant(self.graph, "mask.query_axes", np.array([1, 3], dtype=np.int64))
        batch_axes = constant(self.graph, "mask.batch_axes", np.array([1, 2, 3], dtype=np.int64))
        first_axis = constant(self.graph, "mask.first_axis", np.array([0], dtype=np.int64))
        slots = add("Squeeze", [add("Shape", [past], "mask.slots", start=2, end=3), first_axis], "mask.slot_count")
        if self.growing:
            new = add("Squeeze", [add("Shape", [positions], "mask.new", start=1, end=2), first_axis], "mask.new_count")
            total = add("Add", [slots, new], "mask.total")
            new_slots = add("Range", [slots, total, one], "mask.new_slots")
            queries = add("Unsqueeze", [new_slots, first_axis], "mask.new_slots_of_a_sequence")
            self._start = add("Unsqueeze", [start, batch_axes], "mask.start")
        else:
            self.write_indices = add("Gather", [positions, zero], "write_indices", axis=1)
            queries, total = positions, slots
        self._keys = add("Range", [zero, total, one], "mask.keys")
        self._queries = add("Unsqueeze", [queries, query_axes], "mask.queries")
        self.graph.insert_before(self.first if self.growing else self.graph[0], nodes)
        self._last = nodes[-1]

    def of(self, kind: BiasKind) -> ir.Value:
        """The mask of a kind; layers with the same share it."""
        if kind in self._made:
            return self._made[kind]
        make_nodes = BiasNodes(self.graph, f"mask.{kind.name}", [])
        add = make_nodes.add
        visible = [add("LessOrEqual", [self._keys, self._queries], "causal")]
        if self.growing:
            visible.append(add("GreaterOrEqual", [self._keys, self._start], "not_padding"))
        if kind.window:
            before = add("Sub", [self._queries, make_nodes.integer(kind.window)], "before")
            visible.append(add("Greater", [self._keys, before], "inside"))
        keys, queries = self._keys, self._queries
        if self.growing and (kind.chunk or kind.slopes):
            keys, queries = (
                add("Sub", [slots, self._start], f"{name}_positions")
                for name, slots in (("key", keys), ("query", queries))
            )
        if kind.chunk:
            visible.append(make_nodes.in_chunk(keys, queries, kind.chunk))
        kept = make_nodes.alibi(keys, queries, kind) if kind.slopes else make_nodes.number(0.0)
        mask = add("Where", [make_nodes.all_of(visible), kept, make_nodes.number(MASKED)], "added")
        self.graph.insert_after(self._last, make_nodes.nodes)
        self._made[kind] = mask
        return mask
