"""Lower edgekiln::Attention to com.microsoft::GroupQueryAttention over one shared KV buffer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.functions.define import MICROSOFT
from edgekiln.export.passes.common.attention_bias import BiasKind, chunk_of, sinks_of
from edgekiln.export.passes.common.tensors import (
    attribute,
    constant,
    heads_of,
    input_of,
    inputs_of,
    make,
    name_of,
    replace_node,
    shape_of,
    values_of,
)
from edgekiln.export.passes.ort.attention_biases import AttentionBiases
from edgekiln.export.passes.ort.rotary_cache import RotaryCache, RotaryCaches
from edgekiln.runtimes.window_buffer import WindowBuffer

# The kernel vectorizes over the head and refuses sizes that are not a multiple of this.
_HEAD_DIM_MULTIPLE = 8
# It refuses a rotary dimension whose half is not a multiple of this; RotaryEmbedding then stays a separate op.
_ROTARY_MULTIPLE = 8


class LowerToGroupQueryAttention(InPlacePass):
    """Replace every Attention by GroupQueryAttention; sequences need neither padding nor a mask.

    The length of each sequence of a batch follows from its last position id.

    Cases:
        1. query and key come from RotaryEmbedding with angles that depend on the position alone: the rotation is folded
           into the attention (`do_rotary`), which reads a rotary cache;
        2. query, key and value are consecutive parts of one tensor: it is passed packed;
        3. otherwise: RotaryEmbedding, or Transpose and Reshape of query, key and value, stay explicit;
        4. the layer has a window buffer (`cache_windows`): the attention counts from the buffer's start, a graph input,
           and rotates by position_ids;
        5. chunked attention is a window of the chunk's size, and a bias that masks the keys of the chunk before;
        6. ALiBi is a bias of [B, H, S, T], which all layers share.

    Args:
        max_length: positions that the rotary cache holds.
        total_length: graph input int32 [1] with the largest length of the batch; None computes it from position_ids.
        window_buffers: give sliding-window layers window buffers, where that saves memory.

    Raises:
        UnsupportedModelError: a head size that the kernel does not take.
    """

    def __init__(self, max_length: int, total_length: ir.Value | None = None, *, window_buffers: bool = False) -> None:
        super().__init__()
        self._max_length = max_length
        self._total_length = total_length
        self._window_buffers = window_buffers

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        attentions = [node for node in model.graph if _is_attention(node)]
        if not attentions:
            return PassResult(model, False)
        caches = RotaryCaches(model, self._max_length)
        windows = cache_windows(model, self._max_length) if self._window_buffers else {}
        biases = AttentionBiases(model.graph)
        lengths = _lengths(model.graph, self._total_length, sorted(set(windows.values())))
        for node in attentions:
            window = windows.get(_layer(node), 0) if windows else 0
            if window:
                _name_slots(node, window)
            _lower(model.graph, node, caches, lengths[window], biases)
        return PassResult(model, True)


def cache_windows(model: ir.Model, max_length: int) -> dict[int, int]:
    """The layers of a canonical graph that get window buffers, and their windows.

    These are all layers whose buffers would be shorter than a sequence of `max_length` tokens; see
    `edgekiln.runtimes.window_buffer`.
    """
    windows = {_layer(node): _window(node) for node in model.graph if _is_attention(node)}
    return {layer: size for layer, size in windows.items() if size and WindowBuffer.of(size).capacity < max_length}


def window_start_input(window: int | str = "{window}") -> str:
    """The name of the graph input with the start of a window's buffers."""
    return f"window_start.{window}"


def _is_attention(node: ir.Node) -> bool:
    return node.domain == canonical.DOMAIN and node.op_type == "Attention"


def _layer(attention: ir.Node) -> int:
    return int((input_of(attention, 3).name or "").split(".")[1])


def _window(attention: ir.Node) -> int:
    """The last keys that a query sees at most; 0 for all. A chunk is one as well."""
    return int(attribute(attention, "window")) or chunk_of(attention)


def _name_slots(attention: ir.Node, window: int) -> None:
    """Name the slots of a layer's past and present apart from those of other layers, whose number differs."""
    for value, name in (
        (attention.inputs[3], "P"),
        (attention.inputs[4], "P"),
        *((out, "T") for out in attention.outputs[1:]),
    ):
        if value is not None and value.shape is not None:
            batch, heads, _, size = value.shape
            value.shape = ir.Shape([batch, heads, f"{name}.{window}", size])


@dataclass(frozen=True)
class _Lengths:
    """What attentions are told of the lengths of sequences.

    Attributes:
        seqlens_k: int32[B], the slot of the last new key.
        total: int32, the largest of them plus one.
        position_ids: int64[B, S], positions of the new tokens; None where these are their slots in all layers.
        start: int64[B], the position of the first slot of a window buffer; None for other buffers.
    """

    seqlens_k: ir.Value
    total: ir.Value
    position_ids: ir.Value | None = None
    start: ir.Value | None = None


def _lengths(graph: ir.Graph, total_length: ir.Value | None, windows: Sequence[int]) -> dict[int, _Lengths]:
    """Of the layers of each window that has window buffers, and with key 0 of all others."""
    positions = next(value for value in graph.inputs if value.name == "position_ids")
    batch = None if positions.shape is None else positions.shape[0]
    position_ids = positions if windows else None
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
        lengths[window] = _Lengths(seqlens, total, position_ids, start)
    graph.insert_before(graph[0], nodes)
    return lengths


@dataclass(frozen=True)
class _Rotation:
    """The RotaryEmbedding of a query or key.

    Attributes:
        x: its input [B, heads, S, D].
        cache: its angles.
        interleaved: its attribute.
    """

    x: ir.Value
    cache: RotaryCache
    interleaved: int


def _lower(graph: ir.Graph, node: ir.Node, caches: RotaryCaches, lengths: _Lengths, biases: AttentionBiases) -> None:
    query, key, value, past_key, past_value = inputs_of(node, 5)
    heads, head_dim = heads_of(query)
    kv_heads, _ = heads_of(key)
    if head_dim % _HEAD_DIM_MULTIPLE:
        raise UnsupportedModelError(
            f"heads of {head_dim} elements are not a multiple of {_HEAD_DIM_MULTIPLE}, "
            "which ONNX Runtime's attention needs"
        )
    name = name_of(node)
    rotations = _shared_rotation(query, key, caches)
    cos = sin = None
    attributes: dict[str, object] = {}
    if rotations is not None:
        first, second = rotations
        query, key, cos, sin = first.x, second.x, first.cache.cos, first.cache.sin
        attributes = {"do_rotary": 1, "rotary_interleaved": first.interleaved}
    if window := _window(node):
        attributes["local_window_size"] = window
    if softcap := float(attribute(node, "softcap")):
        attributes["softcap"] = softcap
    # The kernel rotates by them; without them by slots.
    rotated_by = lengths.position_ids if rotations is not None else None
    bias, sinks = biases.of(BiasKind.of(node), lengths.total, lengths.start), sinks_of(node)
    new: list[ir.Node] = []
    parts = [
        _flat(graph, part, f"{name}.{kind}", new) for kind, part in (("query", query), ("key", key), ("value", value))
    ]
    packed = _packed(parts)
    attention = make(
        "GroupQueryAttention",
        [
            *(parts if packed is None else (packed, None, None)),
            *(past_key, past_value, lengths.seqlens_k, lengths.total, cos, sin),
            *canonical.without_trailing_none(rotated_by, bias, sinks),
        ],
        name + ".gqa",
        domain=MICROSOFT,
        outputs=3,
        num_heads=heads,
        kv_num_heads=kv_heads,
        scale=float(attribute(node, "scale")),
        **attributes,
    )
    shape = constant(graph, f"heads.{heads}.{head_dim}", np.array([0, 0, heads, head_dim], dtype=np.int64))
    by_head = make("Reshape", [attention.outputs[0], shape], name + ".heads")
    users = [use.node for use in node.outputs[0].uses()]
    replace_node(node, [*new, attention, by_head], [by_head.outputs[0], *attention.outputs[1:]])
    for user in users:
        if user.op_type == "Reshape" and _last_dim(user.outputs[0]) == heads * head_dim:
            replace_node(user, [], [attention.outputs[0]])


def _shared_rotation(query: ir.Value, key: ir.Value, caches: RotaryCaches) -> tuple[_Rotation, _Rotation] | None:
    """The rotations of query and key, if both can be folded in with one rotary cache."""
    first, second = _rotation(query, caches), _rotation(key, caches)
    if first is None or second is None or first.cache != second.cache or first.interleaved != second.interleaved:
        return None
    return first, second


def _rotation(value: ir.Value, caches: RotaryCaches) -> _Rotation | None:
    node = value.producer()
    if node is None or node.op_type != "RotaryEmbedding" or len(node.inputs) != 3:
        return None
    x, cos, sin = inputs_of(node, 3)
    cache = caches.of(cos, sin)
    if cache is None or shape_of(cache.cos)[1] % _ROTARY_MULTIPLE:
        return None
    return _Rotation(x, cache, int(attribute(node, "interleaved")) if "interleaved" in node.attributes else 0)


def _last_dim(value: ir.Value) -> int | None:
    """The static width of [B, S, W]; None for another rank or a symbolic width."""
    if value.shape is None or len(value.shape) != 3:
        return None
    size = value.shape[2]
    return size if isinstance(size, int) else None


def _flat(graph: ir.Graph, value: ir.Value, name: str, new: list[ir.Node]) -> ir.Value:
    """[B, heads, S, D] as [B, S, heads · D].

    The value that Reshape and Transpose made it from, if they did; otherwise Transpose and Reshape are added to `new`.
    """
    heads, head_dim = heads_of(value)
    producer = value.producer()
    if (
        producer is not None
        and producer.op_type == "Transpose"
        and list(producer.attributes["perm"].as_ints()) == [0, 2, 1, 3]
    ):
        by_position = input_of(producer, 0)
        reshape = by_position.producer()
        if reshape is not None and reshape.op_type == "Reshape":
            flat = input_of(reshape, 0)
            if _last_dim(flat) == heads * head_dim:
                return flat
    else:
        transpose = make("Transpose", [value], f"{name}.by_position", perm=[0, 2, 1, 3])
        new.append(transpose)
        by_position = transpose.outputs[0]
    shape = constant(graph, f"flat.{heads * head_dim}", np.array([0, 0, heads * head_dim], dtype=np.int64))
    new.append(make("Reshape", [by_position, shape], f"{name}.flat"))
    return new[-1].outputs[0]


def _packed(parts: Sequence[ir.Value]) -> ir.Value | None:
    """The tensor that one Split, or Slices of the last axis, cut into `parts`; None if there is none."""
    producers = [producer for part in parts if (producer := part.producer()) is not None]
    if len(producers) != len(parts):
        return None
    first = producers[0]
    if all(producer is first for producer in producers) and first.op_type == "Split":
        return first.inputs[0] if list(first.outputs) == list(parts) else None
    if any(producer.op_type != "Slice" or producer.inputs[0] is not first.inputs[0] for producer in producers):
        return None
    source = input_of(first, 0)
    width, end = _last_dim(source), 0
    for producer in producers:
        bounds = [value for value in producer.inputs[1:] if value is not None and value.is_initializer()]
        if len(bounds) != len(producer.inputs) - 1:
            return None
        starts, ends, axes, *steps = (values_of(value).tolist() for value in bounds)
        if axes not in ([2], [-1]) or starts != [end] or any(step != [1] for step in steps):
            return None
        end = min(ends[0], width or 0)
    return source if end == width else None
