"""Attention masks of standard ops for the growing and the in-place KV cache."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekiln.export.passes.common.tensors import constant, input_of, make

# Far below any score and inside the range of float16: a fully masked query stays finite.
_MASKED = -30000.0


@dataclass
class AttentionMasks:
    """Masks that are added to the scores, float32 [B, 1, S, T]: 0 for visible keys, -30000 for others.

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
    _made: dict[int, ir.Value] = field(default_factory=dict)

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

    def of(self, window: int) -> ir.Value:
        """The mask for a sliding window in tokens, 0 for none; layers with the same window share it."""
        if window in self._made:
            return self._made[window]
        nodes = [make("LessOrEqual", [self._keys, self._queries], f"mask.{window}.causal")]
        if self.growing:
            nodes.append(make("GreaterOrEqual", [self._keys, self._start], f"mask.{window}.not_padding"))
        if window:
            width = constant(self.graph, f"mask.window.{window}", np.array(window, dtype=np.int64))
            nodes.append(make("Sub", [self._queries, width], f"mask.{window}.before"))
            nodes.append(make("Greater", [self._keys, nodes[-1].outputs[0]], f"mask.{window}.inside"))
        conditions = [node.outputs[0] for node in nodes if node.op_type != "Sub"]
        visible = conditions[0]
        for i, condition in enumerate(conditions[1:]):
            nodes.append(make("And", [visible, condition], f"mask.{window}.visible.{i}"))
            visible = nodes[-1].outputs[0]
        kept, masked = (
            constant(self.graph, f"mask.{name}", np.array(value, dtype=np.float32))
            for name, value in (("kept", 0.0), ("masked", _MASKED))
        )
        nodes.append(make("Where", [visible, kept, masked], f"mask.{window}.added"))
        self.graph.insert_after(self._last, nodes)
        self._made[window] = nodes[-1].outputs[0]
        return self._made[window]
