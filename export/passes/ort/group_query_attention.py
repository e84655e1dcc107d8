"""`edgekiln::Attention` as ONNX Runtime's GroupQueryAttention over one shared buffer.

Rows are not padded: each row's length follows from its own positions, so a batch needs no padding and
no mask. Cases:
    1. query and key come from RotaryEmbedding whose angles depend on the position alone: rotary is folded in;
    2. query, key and value are the parts of one tensor, in that order: it is passed packed;
    3. what is in the way of either stays an explicit op.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.passes.common.tensors import attribute, constant, make, replace_node, shape_of, values_of
from edgekiln.export.passes.ort.rotary_cache import RotaryCache, RotaryCaches

MICROSOFT = "com.microsoft"
# The kernel vectorizes over the head and refuses sizes that are not a multiple of this.
_HEAD_DIM_MULTIPLE = 8
# It refuses half a rotated head that is not a multiple of this, too; the rotation then stays an op of its own.
_ROTARY_MULTIPLE = 8


def lower_attention(model: ir.Model, max_length: int, total_length: ir.Value | None = None) -> None:
    """Lower every Attention, in place; positions go up to `max_length`.

    The largest length of a batch comes from its positions, or, where it is given, from the input `total_length`.

    Raises:
        UnsupportedModelError: a head size the kernel does not take.
    """
    caches = RotaryCaches(model, max_length)
    lengths: tuple[ir.Value, ir.Value] | None = None
    for node in list(model.graph):
        if node.domain == canonical.DOMAIN and node.op_type == "Attention":
            lengths = lengths or _lengths(model.graph, total_length)
            _lower(model.graph, node, caches, lengths)


def _lengths(graph: ir.Graph, total_length: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """seqlens_k int32[B], the last position of each row, and total_sequence_length int32, one more than the largest."""
    positions = next(value for value in graph.inputs if value.name == "position_ids")
    last = constant(graph, "last_index", np.array(-1, dtype=np.int64))
    nodes = [make("Gather", [positions, last], "last_position", axis=1)]
    nodes.append(make("Cast", [nodes[-1].outputs[0]], "seqlens_k", to=ir.DataType.INT32.value))
    seqlens = nodes[-1].outputs[0]
    if total_length is None:
        one = constant(graph, "one_int32", np.array(1, dtype=np.int32))
        nodes.append(make("ReduceMax", [seqlens], "largest_seqlen_k", keepdims=0))
        nodes.append(make("Add", [nodes[-1].outputs[0], one], "total_sequence_length"))
        total_length = nodes[-1].outputs[0]
    graph.insert_before(graph[0], nodes)
    return seqlens, total_length


@dataclass(frozen=True)
class _Rotated:
    """A query or key before its RotaryEmbedding, [B, heads, S, D]."""

    value: ir.Value
    cache: RotaryCache
    interleaved: int


def _lower(graph: ir.Graph, node: ir.Node, caches: RotaryCaches, lengths: tuple[ir.Value, ir.Value]) -> None:
    query, key, value, past_key, past_value = node.inputs[:5]
    assert query is not None
    assert key is not None
    assert value is not None
    heads, head_dim = _heads(query)
    kv_heads, _ = _heads(key)
    if head_dim % _HEAD_DIM_MULTIPLE:
        raise UnsupportedModelError(
            f"heads of {head_dim} elements are not a multiple of {_HEAD_DIM_MULTIPLE}, "
            "which ONNX Runtime's attention needs"
        )
    name = node.outputs[0].name or "attention"
    rotated_query, rotated_key = _unrotated(query, caches), _unrotated(key, caches)
    fold = (
        rotated_query is not None
        and rotated_key is not None
        and rotated_query.cache == rotated_key.cache
        and rotated_query.interleaved == rotated_key.interleaved
    )
    cos = sin = None
    attributes: dict[str, object] = {}
    if fold:
        assert rotated_query is not None
        assert rotated_key is not None
        query, key = rotated_query.value, rotated_key.value
        cos, sin = rotated_query.cache.cos, rotated_query.cache.sin
        attributes = {"do_rotary": 1, "rotary_interleaved": rotated_query.interleaved}
    if window := int(attribute(node, "window")):
        attributes["local_window_size"] = window
    if softcap := float(attribute(node, "softcap")):
        attributes["softcap"] = softcap
    new: list[ir.Node] = []
    parts = {"query": query, "key": key, "value": value}
    flat: list[ir.Value | None] = [_flat(graph, part, f"{name}.{what}", new) for what, part in parts.items()]
    packed = _packed(flat)
    if packed is not None:
        flat = [packed, None, None]
    attention = make(
        "GroupQueryAttention",
        [*flat, past_key, past_value, *lengths, cos, sin],
        name + ".gqa",
        domain=MICROSOFT,
        outputs=3,
        num_heads=heads,
        kv_num_heads=kv_heads,
        scale=float(attribute(node, "scale")),
        **attributes,
    )
    shape = constant(graph, f"heads.{heads}.{head_dim}", np.array([0, 0, heads, head_dim], dtype=np.int64))
    unflat = make("Reshape", [attention.outputs[0], shape], name + ".heads")
    users = [use.node for use in node.outputs[0].uses()]
    replace_node(node, [*new, attention, unflat], [unflat.outputs[0], *attention.outputs[1:]])
    for user in users:
        if user.op_type == "Reshape" and _last_dim(user.outputs[0]) == heads * head_dim:
            replace_node(user, [], [attention.outputs[0]])


def _heads(value: ir.Value) -> tuple[int, int]:
    assert value.shape is not None
    heads, head_dim = value.shape[1], value.shape[3]
    assert isinstance(heads, int)
    assert isinstance(head_dim, int)
    return heads, head_dim


def _last_dim(value: ir.Value) -> int | None:
    if value.shape is None or len(value.shape) != 3:
        return None
    size = value.shape[2]
    return size if isinstance(size, int) else None


def _unrotated(value: ir.Value, caches: RotaryCaches) -> _Rotated | None:
    node = value.producer()
    if node is None or node.op_type != "RotaryEmbedding" or len(node.inputs) != 3:
        return None
    x, cos, sin = node.inputs
    assert x is not None
    assert cos is not None
    assert sin is not None
    cache = caches.of(cos, sin)
    if cache is None or shape_of(cache.cos)[1] % _ROTARY_MULTIPLE:
        return None
    return _Rotated(x, cache, int(attribute(node, "interleaved")) if "interleaved" in node.attributes else 0)


def _flat(graph: ir.Graph, value: ir.Value, name: str, new: list[ir.Node]) -> ir.Value:
    """[B, heads, S, D] as [B, S, heads · D]: the tensor it was reshaped and transposed from, if it was."""
    heads, head_dim = _heads(value)
    producer = value.producer()
    if (
        producer is not None
        and producer.op_type == "Transpose"
        and list(producer.attributes["perm"].as_ints()) == [0, 2, 1, 3]
    ):
        split = producer.inputs[0]
        assert split is not None
        source = split.producer()
        if source is not None and source.op_type == "Reshape" and _last_dim(source.inputs[0]) == heads * head_dim:  # type: ignore[arg-type]
            assert source.inputs[0] is not None
            return source.inputs[0]
    else:
        transpose = make("Transpose", [value], f"{name}.by_position", perm=[0, 2, 1, 3])
        new.append(transpose)
        split = transpose.outputs[0]
    shape = constant(graph, f"flat.{heads * head_dim}", np.array([0, 0, heads * head_dim], dtype=np.int64))
    reshape = make("Reshape", [split, shape], f"{name}.flat")
    new.append(reshape)
    return reshape.outputs[0]


def _packed(parts: list[ir.Value | None]) -> ir.Value | None:
    """The tensor that `parts` are all of, in order, by one Split or by Slices of the last axis."""
    producers = [part.producer() if part is not None else None for part in parts]
    first = producers[0]
    if any(producer is None for producer in producers) or first is None:
        return None
    if all(producer is first for producer in producers) and first.op_type == "Split":
        return first.inputs[0] if list(first.outputs) == parts else None
    if any(producer.op_type != "Slice" or producer.inputs[0] is not first.inputs[0] for producer in producers):  # type: ignore[union-attr]
        return None
    source = first.inputs[0]
    assert source is not None
    width, end = _last_dim(source), 0
    for producer in producers:
        if any(value is None or not value.is_initializer() for value in producer.inputs[1:]):  # type: ignore[union-attr]
            return None
        starts, ends, axes, *steps = (values_of(value).tolist() for value in producer.inputs[1:])  # type: ignore[union-attr, arg-type]
        if axes not in ([2], [-1]) or starts != [end] or any(step != [1] for step in steps):
            return None
        end = min(ends[0], width or 0)
    return source if end == width else None
