"""`edgekiln::Attention` in standard ops, over one of two kinds of cache.

Cases:
    1. an in-place cache [B, KV, C, D] of fixed capacity: TensorScatter writes the new keys and values to the slots of
       their positions, so that past and present can be one buffer and rows of a batch need no padding;
    2. a growing cache [B, KV, P, D]: Concat appends them, and rows are aligned at their last token;
    3. scores that are not capped: one Attention;
    4. capped scores, or a runtime without that op: MatMul, Softmax and MatMul, with the heads that share keys in a
       dimension of their own.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import attribute, constant, make, replace_node

IN_PLACE_OPSET = 24
# Far below any score, and far from the end of binary16: a row that sees nothing stays finite.
_MASKED = -30000.0


def lower_attention(model: ir.Model, capacity: int | None, fused: bool) -> None:
    """Lower every Attention, in place.

    Args:
        model: the graph.
        capacity: tokens that an in-place cache holds a row; None has the cache grow.
        fused: use the op Attention where it can be used.
    """
    nodes = [node for node in model.graph if node.domain == canonical.DOMAIN and node.op_type == "Attention"]
    if not nodes:
        return
    masks = _Masks(model.graph, nodes[0], growing=capacity is None)
    for node in nodes:
        _lower(model.graph, node, masks, fused)
    if capacity is not None:
        model.opset_imports[""] = max(model.opset_imports[""], IN_PLACE_OPSET)
        for value in (*model.graph.inputs[2:], *model.graph.outputs[1:]):
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape[:2], capacity, *value.shape[3:]])


@dataclass
class _Masks:
    """What is added to the scores, float32 [B, 1, S, T], for each window; 0 is none."""

    graph: ir.Graph
    first: ir.Node
    growing: bool
    write_indices: ir.Value | None = None
    made: dict[int, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = next(value for value in self.graph.inputs if value.name == "position_ids")
        past = self.first.inputs[3]
        start = self.first.inputs[5]
        assert past is not None
        nodes: list[ir.Node] = []

        def add(op: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
            nodes.append(make(op, inputs, name, **attributes))
            return nodes[-1].outputs[0]

        zero, one = (constant(self.graph, f"mask.{i}", np.array(i, dtype=np.int64)) for i in (0, 1))
        by_query = constant(self.graph, "mask.query_axes", np.array([1, 3], dtype=np.int64))
        by_row = constant(self.graph, "mask.row_axes", np.array([1, 2, 3], dtype=np.int64))
        first_axis = constant(self.graph, "mask.first_axis", np.array([0], dtype=np.int64))
        slots = add("Squeeze", [add("Shape", [past], "mask.slots", start=2, end=3), first_axis], "mask.slot_count")
        if not self.growing:
            self.write_indices = add("Gather", [positions, zero], "write_indices", axis=1)
            last, total = positions, slots
        else:
            new = add("Squeeze", [add("Shape", [positions], "mask.new", start=1, end=2), first_axis], "mask.new_count")
            total = add("Add", [slots, new], "mask.total")
            own = add("Range", [slots, total, one], "mask.own_slots")
            last = add("Unsqueeze", [own, first_axis], "mask.own_slots_of_a_row")
            self._start = add("Unsqueeze", [start, by_row], "mask.start")
        self._keys = add("Range", [zero, total, one], "mask.keys")
        self._queries = add("Unsqueeze", [last, by_query], "mask.queries")
        self.graph.insert_before(self.first if self.growing else self.graph[0], nodes)
        self._last = nodes[-1]

    def of(self, window: int) -> ir.Value:
        """The mask of that window, made once."""
        if window in self.made:
            return self.made[window]
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
        self.made[window] = nodes[-1].outputs[0]
        return self.made[window]


def _lower(graph: ir.Graph, node: ir.Node, masks: _Masks, fused: bool) -> None:
    query, key, value, past_key, past_value = node.inputs[:5]
    assert query is not None
    assert key is not None
    name = node.outputs[0].name or "attention"
    scale, softcap = float(attribute(node, "scale")), float(attribute(node, "softcap"))
    mask = masks.of(int(attribute(node, "window")))
    new: list[ir.Node] = []
    for what, past, now in (("key", past_key, key), ("value", past_value, value)):
        if masks.write_indices is not None:
            new.append(make("TensorScatter", [past, now, masks.write_indices], f"{name}.{what}", axis=2))
        else:
            new.append(make("Concat", [past, now], f"{name}.{what}", axis=2))
    present = [part.outputs[0] for part in new]
    if fused and not softcap:
        new.append(make("Attention", [query, *present, mask], f"{name}.heads", scale=scale))
    else:
        sizes = _Sizes(*_heads(query), _heads(key)[0])
        new += _decomposed(graph, sizes, [query, *present, mask], scale, softcap, name)
    new.append(make("Transpose", [new[-1].outputs[0]], f"{name}.by_position", perm=[0, 2, 1, 3]))
    replace_node(node, new, [new[-1].outputs[0], *present])


@dataclass(frozen=True)
class _Sizes:
    heads: int
    head_dim: int
    kv_heads: int


def _decomposed(
    graph: ir.Graph, sizes: _Sizes, inputs: list[ir.Value], scale: float, softcap: float, name: str
) -> list[ir.Node]:
    """Nodes from query, key, value and mask, of which the last gives [B, H, S, D]."""
    query, key, value, mask = inputs
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value | None], what: str, **attributes: Any) -> ir.Value:
        nodes.append(make(op, inputs, f"{name}.{what}", **attributes))
        return nodes[-1].outputs[0]

    def number(what: str, amount: float) -> ir.Value:
        return constant(graph, f"attention.{what}.{amount}", np.array(amount, dtype=np.float32))

    def shape(sizes: list[int]) -> ir.Value:
        return constant(graph, f"attention.shape.{'.'.join(map(str, sizes))}", np.array(sizes, dtype=np.int64))

    third = constant(graph, "attention.third_axis", np.array([2], dtype=np.int64))
    shared = shape([0, sizes.kv_heads, sizes.heads // sizes.kv_heads, -1, sizes.head_dim])
    scaled = add("Mul", [query, number("scale", scale)], "scaled")
    grouped = add("Reshape", [scaled, shared], "grouped")
    keys = add("Unsqueeze", [add("Transpose", [key], "keys", perm=[0, 1, 3, 2]), third], "grouped_keys")
    scores = add("MatMul", [grouped, keys], "scores")
    if softcap:
        cap = number("softcap", softcap)
        scores = add("Mul", [add("Tanh", [add("Div", [scores, cap], "by_cap")], "tanh"), cap], "capped")
    scores = add("Add", [scores, add("Unsqueeze", [mask, third], "grouped_mask")], "masked")
    weights = add("Softmax", [scores], "weights", axis=-1)
    values = add("Unsqueeze", [value, third], "grouped_values")
    out = add("MatMul", [weights, values], "grouped_out")
    add("Reshape", [out, shape([0, sizes.heads, -1, sizes.head_dim])], "heads")
    return nodes


def _heads(value: ir.Value) -> tuple[int, int]:
    assert value.shape is not None
    heads, head_dim = value.shape[1], value.shape[3]
    assert isinstance(heads, int)
    assert isinstance(head_dim, int)
    return heads, head_dim
