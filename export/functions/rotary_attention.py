"""RotaryAttention and PackedRotaryAttention: GroupQueryAttention with the rotary embedding of its queries and keys.

GroupQueryAttention's own rotation reads the cosines and sines of all positions, 134 MB for 262144 positions and heads
of 128. Those that these functions take are of the new tokens, [B, S, R / 2]; the graph computes them once a run.
"""

from typing import Final

import onnx
import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions.define import MICROSOFT, define, with_ref_attributes

NAME: Final = "RotaryAttention"
PACKED_NAME: Final = "PackedRotaryAttention"
GROUP_QUERY_ATTENTION: Final = "GroupQueryAttention"
# Ops whose inputs, outputs and attributes are those of GroupQueryAttention.
ATTENTIONS: Final = frozenset({NAME, PACKED_NAME, GROUP_QUERY_ATTENTION})
# Inputs of GroupQueryAttention.
CACHE_INPUTS: Final = range(3, 5)
LENGTH_INPUTS: Final = range(5, 7)
ROTARY_INPUTS: Final = range(7, 9)
CACHE_SCALE_INPUTS: Final = range(12, 14)
# Attributes of the functions that GroupQueryAttention does not have: the rotated elements of a head, and the widths of
# query, key and value of a packed input.
ROTARY_DIM: Final = "rotary_dim"
QKV_SIZES: Final = "qkv_sizes"

_INPUTS = (
    *("query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length", "cosine", "sine"),
    *("position_ids", "attention_bias", "head_sink", "k_scale", "v_scale"),
)
_OUTPUTS = ("attended", "present_key", "present_value")
_ATTRIBUTES = {
    AttributeProto.INT: ("num_heads", "kv_num_heads", "local_window_size", "kv_cache_bit_width"),
    AttributeProto.FLOAT: ("scale", "softcap"),
    AttributeProto.STRING: ("k_quant_type", "v_quant_type"),
}
_INTERLEAVED = "rotary_interleaved"


def rotary_attention_function(*, packed: bool) -> ir.Function:
    """RotaryAttention, or PackedRotaryAttention, whose query holds query, key and value.

    Inputs and outputs: those of GroupQueryAttention. cosine and sine are float [B, S, R / 2], of the new tokens, and
    position_ids is not read. Attributes: those of GroupQueryAttention, `ROTARY_DIM` and `QKV_SIZES`.
    """
    query, key, value = _INPUTS[:3]
    nodes: list[onnx.NodeProto] = []
    if packed:
        sizes = helper.make_node("Constant", [], ["sizes"])
        nodes.append(with_ref_attributes(sizes, AttributeProto.INTS, value_ints=QKV_SIZES))
        nodes.append(helper.make_node("Split", [query, "sizes"], ["query_part", "key_part", "value_part"], axis=-1))
        query, key, value = "query_part", "key_part", "value_part"
    for part, heads in ((query, "num_heads"), (key, "kv_num_heads")):
        node = helper.make_node("RotaryEmbedding", [part, "cosine", "sine"], [f"{part}.rotated"])
        references = {"num_heads": heads, "interleaved": _INTERLEAVED, "rotary_embedding_dim": ROTARY_DIM}
        nodes.append(with_ref_attributes(node, AttributeProto.INT, **references))
    rotated = [f"{query}.rotated", f"{key}.rotated", value]
    inputs = [*rotated, *_INPUTS[3 : ROTARY_INPUTS.start], "", "", "", *_INPUTS[ROTARY_INPUTS.stop + 1 :]]
    attention = helper.make_node(GROUP_QUERY_ATTENTION, inputs, _OUTPUTS, domain=MICROSOFT)
    for kind, names in _ATTRIBUTES.items():
        with_ref_attributes(attention, kind, **{name: name for name in names})
    attributes = [name for names in _ATTRIBUTES.values() for name in names]
    extra = (_INTERLEAVED, ROTARY_DIM, *((QKV_SIZES,) if packed else ()))
    name = PACKED_NAME if packed else NAME
    return define(name, _INPUTS, _OUTPUTS, [*nodes, attention], [*attributes, *extra])
