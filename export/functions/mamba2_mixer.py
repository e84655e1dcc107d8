"""Mamba2Mixer and Mamba2MixerNorm: a Mamba-2 layer between its two projections as one call."""

from typing import Final

import onnx_ir as ir
from onnx import AttributeProto, helper

from edgekiln.export.functions import recurrence
from edgekiln.export.functions.define import DOMAIN, define, with_ref_attributes
from edgekiln.export.functions.gated_rms_norm import GATE_THEN_NORM

MAMBA2_MIXER: Final = "Mamba2Mixer"
MAMBA2_MIXER_NORM: Final = "Mamba2MixerNorm"
_OWN_SIZES: Final = ("sizes", "channel_sizes", "group_shape")


def layout(key_heads: int, key_dim: int, heads: int, value_dim: int) -> dict[str, int | list[int]]:
    """The attributes for b and c of [key_heads, key_dim] and x of [heads, value_dim] a token."""
    inner, keys = heads * value_dim, key_heads * key_dim
    return {
        **recurrence.layout(key_heads, key_dim, heads, value_dim),
        "sizes": [inner, inner + 2 * keys, heads],
        "channel_sizes": [inner, keys, keys],
        "channel_count": [inner + 2 * keys],
        "group_shape": [0, 0, key_heads, key_dim],
    }


def mamba2_mixer_function(name: str) -> ir.Function:
    """Mamba2Mixer: y = scan(conv(channels)) · silu(gate). Mamba2MixerNorm: the RMS norm of that.

    `projected` [B, S, ...] holds gate [H · P], channels [H · P + 2 · G · N], which are x, b and c, and dt [H] of each
    token. Source: Mamba2Mixer of transformers. Inputs: projected, weight [C, 1, K], bias [C], a, d, dt_bias [H],
    past_conv [B, C, K - 1], past [B, H, N, P], and with a norm gamma [H · P]. Outputs: y [B, S, H · P], present_conv
    and present. Attributes: least_step, most_step, those of `layout`, and epsilon with a norm.
    """
    norm = name == MAMBA2_MIXER_NORM
    conv = ["channels", "weight", "bias", "past_conv"]
    scan = helper.make_node(
        recurrence.MAMBA2_SCAN,
        ["x", "dt", "a", "b", "c", "d", "dt_bias", "past"],
        ["read", "present"],
        domain=DOMAIN,
    )
    with_ref_attributes(scan, AttributeProto.FLOAT, least_step="least_step", most_step="most_step")
    recurrence.with_layout(scan)
    convolution = helper.make_node(
        recurrence.CAUSAL_CONV, conv, ["convolved", "present_conv"], domain=DOMAIN, activation="silu"
    )
    with_ref_attributes(convolution, AttributeProto.INTS, channels="channel_count")
    nodes = [
        *recurrence.ints(*_OWN_SIZES, "heads_shape", "value_shape"),
        helper.make_node("Split", ["projected", "sizes_ints"], ["gate", "channels", "dt"], axis=2),
        convolution,
        helper.make_node("Split", ["convolved", "channel_sizes_ints"], ["flat_x", "flat_b", "flat_c"], axis=2),
        helper.make_node("Reshape", ["flat_x", "heads_shape_ints"], ["x"]),
        helper.make_node("Reshape", ["flat_b", "group_shape_ints"], ["b"]),
        helper.make_node("Reshape", ["flat_c", "group_shape_ints"], ["c"]),
        scan,
        helper.make_node("Reshape", ["read", "value_shape_ints"], ["flat"]),
    ]
    if norm:
        last = helper.make_node(GATE_THEN_NORM, ["flat", "gate", "gamma"], ["y"], domain=DOMAIN)
        nodes.append(with_ref_attributes(last, AttributeProto.FLOAT, epsilon="epsilon"))
    else:
        nodes += [
            helper.make_node("Sigmoid", ["gate"], ["sigmoid"]),
            helper.make_node("Mul", ["gate", "sigmoid"], ["silu"]),
            helper.make_node("Mul", ["flat", "silu"], ["y"]),
        ]
    inputs = ["projected", "weight", "bias", "a", "d", "dt_bias", "past_conv", "past", *(["gamma"] if norm else [])]
    attributes = [
        "least_step",
        "most_step",
        *recurrence.LAYOUT,
        *_OWN_SIZES,
        "channel_count",
        *(["epsilon"] if norm else []),
    ]
    return define(name, inputs, ["y", "present_conv", "present"], nodes, attributes)
