"""Lower edgekiln::Attention to com.microsoft::GroupQueryAttention over one shared KV buffer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.functions.define import DOMAIN, MICROSOFT, add_function
from edgekiln.export.functions.rotary_attention import (
    GROUP_QUERY_ATTENTION,
    NAME,
    PACKED_NAME,
    QKV_SIZES,
    ROTARY_DIM,
    rotary_attention_function,
)
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
    values_of,
)
from edgekiln.export.passes.ort.attention_biases import AttentionBiases
from edgekiln.export.passes.ort.rotary_cache import RotaryCache, RotaryCaches
from edgekiln.export.passes.ort.sequence_lengths import SequenceLengths, sequence_lengths
from edgekiln.runtimes.window_buffer import WindowBuffer

# The kernel vectorizes over the head and refuses sizes that are not a multiple of this.
_HEAD_DIM_MULTIPLE = 8
# It refuses rotary caches of a rotary dimension whose half is not a multiple of this.
_ROTARY_MULTIPLE = 8


class LowerToGroupQueryAttention(InPlacePass):
    """Replace every Attention by GroupQueryAttention; sequences need neither padding nor a mask.

    The length of each sequence of a batch follows from its last position id.

    Cases:
        1. query and key come from RotaryEmbedding with the same angles: RotaryAttention, a function that rotates and
           attends, see `edgekiln.export.functions.rotary_attention`;
        2. these angles depend on the position alone, and those of all positions take up to `rotary_cache_bytes`: the
           rotation is folded into GroupQueryAttention (`do_rotary`), which reads a rotary cache;
        3. query, key and value are consecutive parts of one tensor: it is passed packed;
        4. otherwise: RotaryEmbedding, or Transpose and Reshape of query, key and value, stay explicit;
        5. the layer has a window buffer (`cache_windows`): the attention counts from the buffer's start, a graph input;
        6. chunked attention is a window of the chunk's size, and a bias that masks the keys of the chunk before;
        7. ALiBi is a bias of [B, H, S, T], which all layers share.

    Args:
        max_length: tokens of a sequence, at most.
        total_length: graph input int32 [1] with the largest length of the batch; None computes it from position_ids.
        window_buffers: give sliding-window layers window buffers, where that saves memory.
        rotary_cache_bytes: most bytes of a rotary cache as float32; 0 for no caches. Layers with window buffers have
            none, as their slots are not positions.

    Raises:
        UnsupportedModelError: a head size that the kernel does not take.
    """

    def __init__(
        self,
        max_length: int,
        total_length: ir.Value | None = None,
        *,
        window_buffers: bool = False,
        rotary_cache_bytes: int = 0,
    ) -> None:
        super().__init__()
        self._max_length = max_length
        self._total_length = total_length
        self._window_buffers = window_buffers
        self._rotary_cache_bytes = rotary_cache_bytes

    def call(self, model: ir.Model) -> PassResult:
        """Run on `model`."""
        attentions = [node for node in model.graph if _is_attention(node)]
        if not attentions:
            return PassResult(model, False)
        caches = RotaryCaches(model, self._max_length, self._rotary_cache_bytes)
        windows = cache_windows(model, self._max_length) if self._window_buffers else {}
        biases = AttentionBiases(model.graph)
        lengths = sequence_lengths(model.graph, self._total_length, sorted(set(windows.values())))
        for node in attentions:
            window = windows.get(_layer(node), 0) if windows else 0
            if window:
                _name_slots(node, window)
            _lower(model, node, None if window else caches, lengths[window], biases)
        return PassResult(model, True)


def cache_windows(model: ir.Model, max_length: int) -> dict[int, int]:
    """The layers of a canonical graph that get window buffers, and their windows.

    These are all layers whose buffers would be shorter than a sequence of `max_length` tokens; see
    `edgekiln.runtimes.window_buffer`.
    """
    windows = {_layer(node): _window(node) for node in model.graph if _is_attention(node)}
    return {layer: size for layer, size in windows.items() if size and WindowBuffer.of(size).capacity < max_length}


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
class _Rotation:
    """The rotary embedding of a query and its key.

    Attributes:
        query, key: before it, [B, heads, S, D].
        cos, sin: of the angles, [B, S, dim / 2].
        dim: elements of a head that are rotated.
        interleaved: attribute of RotaryEmbedding.
    """

    query: ir.Value
    key: ir.Value
    cos: ir.Value
    sin: ir.Value
    dim: int
    interleaved: int


def _lower(
    model: ir.Model, node: ir.Node, caches: RotaryCaches | None, lengths: SequenceLengths, biases: AttentionBiases
) -> None:
    graph = model.graph
    query, key, value, past_key, past_value = inputs_of(node, 5)
    heads, head_dim = heads_of(query)
    kv_heads, _ = heads_of(key)
    if head_dim % _HEAD_DIM_MULTIPLE:
        raise UnsupportedModelError(
            f"heads of {head_dim} elements are not a multiple of {_HEAD_DIM_MULTIPLE}, "
            "which ONNX Runtime's attention needs"
        )
    name = name_of(node)
    rotation = _rotation(query, key)
    cache = _cache(rotation, caches)
    cos = sin = None
    attributes: dict[str, object] = {}
    if rotation is not None:
        query, key, attributes = rotation.query, rotation.key, {"rotary_interleaved": rotation.interleaved}
        cos, sin = (rotation.cos, rotation.sin) if cache is None else (cache.cos, cache.sin)
    if cache is not None:
        attributes["do_rotary"] = 1
    if window := _window(node):
        attributes["local_window_size"] = window
    if softcap := float(attribute(node, "softcap")):
        attributes["softcap"] = softcap
    bias, sinks = biases.of(BiasKind.of(node), lengths.total, lengths.start), sinks_of(node)
    new: list[ir.Node] = []
    parts = [
        _flat(graph, part, f"{name}.{kind}", new) for kind, part in (("query", query), ("key", key), ("value", value))
    ]
    packed = _packed(parts)
    op, domain = GROUP_QUERY_ATTENTION, MICROSOFT
    if rotation is not None and cache is None:
        op, domain = (NAME if packed is None else PACKED_NAME), DOMAIN
        add_function(model, rotary_attention_function(packed=packed is not None))
        attributes[ROTARY_DIM] = rotation.dim
        if packed is not None:
            attributes[QKV_SIZES] = [count * head_dim for count in (heads, kv_heads, kv_heads)]
    attention = make(
        op,
        [
            *(parts if packed is None else (packed, None, None)),
            *(past_key, past_value, lengths.seqlens_k, lengths.total, cos, sin),
            *canonical.without_trailing_none(None, bias, sinks),
        ],
        name + ".gqa",
        domain=domain,
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


def _rotation(query: ir.Value, key: ir.Value) -> _Rotation | None:
    """The rotary embedding of query and key; None if they have none, or different ones."""
    nodes = (query.producer(), key.producer())
    found = [node for node in nodes if node is not None and node.op_type == "RotaryEmbedding" and len(node.inputs) == 3]
    if len(found) != 2:
        return None
    (x, cos, sin), (other, *angles) = (inputs_of(node, 3) for node in found)
    dims, kinds = ({_int(node, name) for node in found} for name in ("rotary_embedding_dim", "interleaved"))
    if angles != [cos, sin] or len(dims) != 1 or len(kinds) != 1:
        return None
    _, head_dim = heads_of(query)
    return _Rotation(x, other, cos, sin, dims.pop() or head_dim, kinds.pop())


def _cache(rotation: _Rotation | None, caches: RotaryCaches | None) -> RotaryCache | None:
    """The rotary cache that an attention reads instead of its tokens' angles; None for none."""
    if rotation is None or caches is None or rotation.dim // 2 % _ROTARY_MULTIPLE:
        return None
    return caches.of(rotation.cos, rotation.sin, rotation.dim)


def _int(node: ir.Node, name: str) -> int:
    """An integer attribute; 0 where the node does not have it."""
    return int(attribute(node, name)) if name in node.attributes else 0


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
