"""Architectures with layers that keep a state in place of keys and values: Mamba, short convolutions and hybrids."""

from typing import Any

from edgekiln.sources.gguf import layouts
from edgekiln.sources.gguf.architecture import DENSE, RMS_EPSILON, Architecture
from edgekiln.sources.gguf.dense_architectures import GRANITE_SCALES, PERMUTED
from edgekiln.sources.gguf.expert_architectures import GRANITE_EXPERTS
from edgekiln.sources.gguf.layouts import Merge
from edgekiln.sources.gguf.metadata import Metadata

_KV_HEADS = "attention.head_count_kv"
_MAMBA_SIZES = {"block_count": "num_hidden_layers", "embedding_length": "hidden_size"}
_MAMBA = {
    r"ssm_conv1d\.weight": layouts.convolution,
    "ssm_a": layouts.log_decay,
}
_MAMBA2 = {
    r"ssm_conv1d\.weight": layouts.convolution,
    "ssm_a": layouts.log_decay_vector,
    "ssm_d": layouts.vector,
    r"ssm_norm\.weight": layouts.vector,
}
# Keys that Mamba's files have because llama.cpp wants them, and its arbitrary context length.
_UNUSED: dict[str, tuple[Any, ...] | None] = {
    "context_length": None,
    "feed_forward_length": (0,),
    "attention.head_count": (0,),
    "attention.head_count_kv": (0,),
    "ssm.dt_b_c_rms": (False,),
}


def _kv_heads(metadata: Metadata, parsed: dict[str, Any]) -> list[int]:
    """Key-value heads of each layer, 0 in layers with a state; the one other number becomes a field.

    Raises:
        SourceError: they are no such numbers.
        UnsupportedModelError: layers with attention have different numbers.
    """
    counts = metadata.array(_KV_HEADS, parsed["num_hidden_layers"]) or []
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        raise metadata.damaged(_KV_HEADS, counts, "one number a layer")
    found = {count for count in counts if count}
    if len(found) != 1:
        raise metadata.unsupported(_KV_HEADS, "it differs between layers with attention, or none has any")
    (parsed["num_key_value_heads"],) = found
    if parsed["num_attention_heads"] % parsed["num_key_value_heads"]:
        raise metadata.damaged(_KV_HEADS, counts, f"a divisor of the {parsed['num_attention_heads']} heads")
    return counts


def _one_group(metadata: Metadata) -> None:
    if metadata.count("ssm.group_count", 1) != 1:
        raise metadata.unsupported("ssm.group_count", "transformers normalizes all groups together, llama.cpp each")


def _mamba(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["expand"] = _expand(metadata)


def _expand(metadata: Metadata) -> int:
    inner, hidden = metadata.count("ssm.inner_size"), metadata.count("embedding_length")
    if inner % hidden:
        raise metadata.unsupported("ssm.inner_size", f"no multiple of {hidden}")
    return inner // hidden


def _head_size(metadata: Metadata, heads: int) -> int:
    inner = metadata.count("ssm.inner_size")
    if inner % heads:
        raise metadata.damaged("ssm.inner_size", inner, f"a multiple of the {heads} heads")
    return inner // heads


def _mamba2(metadata: Metadata, parsed: dict[str, Any]) -> None:
    _one_group(metadata)
    parsed["expand"] = _expand(metadata)
    parsed["n_groups"] = 1
    parsed["head_dim"] = _head_size(metadata, parsed["num_heads"])


def _lfm2(metadata: Metadata, parsed: dict[str, Any]) -> None:
    kinds = ["full_attention" if count else "conv" for count in _kv_heads(metadata, parsed)]
    parsed["layer_types"] = kinds


def _lfm2_moe(metadata: Metadata, parsed: dict[str, Any]) -> None:
    _lfm2(metadata, parsed)
    parsed["num_dense_layers"] = int(metadata.number("leading_dense_block_count", 0, zero=True))
    parsed["use_expert_bias"] = any(name.endswith("exp_probs_b.bias") for name in metadata.file.tensors)


def _qwen3_next(metadata: Metadata, parsed: dict[str, Any]) -> None:
    heads, inner = parsed["linear_num_value_heads"], metadata.count("ssm.inner_size")
    if inner % heads or heads % parsed["linear_num_key_heads"]:
        raise metadata.damaged("ssm.inner_size", inner, f"a multiple of the {heads} value heads")
    parsed["linear_value_head_dim"] = inner // heads
    interval, layers = metadata.count("full_attention_interval", 4), parsed["num_hidden_layers"]
    parsed["layer_types"] = [
        "full_attention" if layer % interval == interval - 1 else "linear_attention" for layer in range(layers)
    ]


def _granite_hybrid(metadata: Metadata, parsed: dict[str, Any]) -> None:
    _one_group(metadata)
    tensors = metadata.file.tensors
    parsed["layer_types"] = ["attention" if count else "mamba" for count in _kv_heads(metadata, parsed)]
    parsed["mamba_expand"], parsed["mamba_n_groups"] = _expand(metadata), 1
    parsed["mamba_d_head"] = _head_size(metadata, parsed["mamba_n_heads"])
    parsed["mamba_conv_bias"] = any(name.endswith("ssm_conv1d.bias") for name in tensors)
    parsed["position_embedding_type"] = "rope" if metadata.value("rope.scaling.finetuned") else "nope"
    experts = int(metadata.number("expert_count", 0, zero=True))
    parsed["num_local_experts"] = experts
    if experts:
        parsed["num_experts_per_tok"] = metadata.count("expert_used_count")
        parsed["shared_intermediate_size"] = metadata.count("expert_shared_feed_forward_length")
    else:
        # Without experts, the shared expert is the MLP.
        metadata.value("expert_used_count")
        shared = metadata.number("expert_shared_feed_forward_length", parsed["intermediate_size"], zero=True)
        parsed["shared_intermediate_size"] = int(shared) or parsed["intermediate_size"]


def _falcon_h1(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["mamba_d_head"] = _head_size(metadata, parsed["mamba_n_heads"])
    parsed["mamba_rms_norm"] = "blk.0.ssm_norm.weight" in metadata.file.tensors
    parsed["mamba_conv_bias"] = "blk.0.ssm_conv1d.bias" in metadata.file.tensors


def _nemotron_h(metadata: Metadata, parsed: dict[str, Any]) -> None:
    layers = parsed.pop("num_hidden_layers")
    widths = metadata.array("feed_forward_length", layers) or []
    found = {width for width in widths if width}
    if len(found) != 1 or not all(isinstance(width, int) for width in found):
        raise metadata.unsupported("feed_forward_length", "it differs between layers with an MLP, or none has any")
    (parsed["intermediate_size"],) = found
    counts = _kv_heads(metadata, {**parsed, "num_hidden_layers": layers})
    parsed["num_key_value_heads"] = max(counts)
    parsed["layers_block_type"] = [
        "mlp" if width else "full_attention" if count else "linear_attention"
        for width, count in zip(widths, counts, strict=True)
    ]
    parsed["mamba_head_dim"] = _head_size(metadata, parsed["mamba_num_heads"])
    parsed["use_conv_bias"] = any(name.endswith("ssm_conv1d.bias") for name in metadata.file.tensors)


def _jamba(metadata: Metadata, parsed: dict[str, Any]) -> None:
    layers, tensors = parsed["num_hidden_layers"], metadata.file.tensors
    counts = _kv_heads(metadata, parsed)
    attention = [layer for layer, count in enumerate(counts) if count]
    experts = [layer for layer in range(layers) if f"blk.{layer}.ffn_gate_inp.weight" in tensors]
    parsed["attn_layer_period"], parsed["attn_layer_offset"] = _period(metadata, _KV_HEADS, attention, layers)
    parsed["expert_layer_period"], parsed["expert_layer_offset"] = _period(metadata, "expert_count", experts, layers)
    parsed["mamba_expand"] = _expand(metadata)


def _period(metadata: Metadata, key: str, chosen: list[int], layers: int) -> tuple[int, int]:
    """The period and offset of layers of a kind."""
    if not chosen:
        return layers + 1, layers
    period = chosen[1] - chosen[0] if len(chosen) > 1 else layers
    if chosen != list(range(chosen[0], layers, period)) or chosen[0] >= period:
        raise metadata.unsupported(key, "its layers have no period")
    return period, chosen[0]


_GATED_DELTA = {
    **DENSE,
    "attention.head_count_kv": "num_key_value_heads",
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
}
_QWEN_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_QWEN_NEXT = {
    r"(?!ssm_).*norm\.weight": layouts.minus_one,
    r"ffn_gate_inp_shexp\.weight": layouts.row,
    r"ssm_conv1d\.weight": layouts.convolution,
    "ssm_a": layouts.log_decay,
}
_QWEN35 = {
    **_QWEN_NEXT,
    r"attn_qkv\.weight": layouts.last_value_heads,
    r"(attn_gate|ssm_alpha|ssm_beta)\.weight": layouts.value_heads,
    r"ssm_dt(\.bias)?": layouts.value_heads,
    r"ssm_out\.weight": layouts.value_head_columns,
    r"ssm_conv1d\.weight": layouts.value_head_convolution,
    "ssm_a": layouts.value_head_decay,
}

STATE_ARCHITECTURES = {
    "mamba": Architecture(
        "mamba",
        {
            **_MAMBA_SIZES,
            "ssm.conv_kernel": "conv_kernel",
            "ssm.inner_size": "intermediate_size",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "time_step_rank",
        },
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        neutral=_UNUSED,
        rope=False,
        attention=False,
        layouts=_MAMBA,
        read=_mamba,
    ),
    "mamba2": Architecture(
        "mamba2",
        {
            **_MAMBA_SIZES,
            "ssm.conv_kernel": "conv_kernel",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "num_heads",
        },
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        neutral=_UNUSED,
        rope=False,
        attention=False,
        layouts=_MAMBA2,
        read=_mamba2,
    ),
    "lfm2": Architecture(
        "lfm2",
        {**DENSE, "shortconv.l_cache": "conv_L_cache"},
        epsilon=(RMS_EPSILON, "norm_eps"),
        fixed={"block_auto_adjust_ff_dim": False},
        head_dim=False,
        layouts={r"shortconv\.conv\.weight": layouts.convolution},
        read=_lfm2,
    ),
    "lfm2moe": Architecture(
        "lfm2_moe",
        {
            **DENSE,
            "shortconv.l_cache": "conv_L_cache",
            "expert_count": "num_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        epsilon=(RMS_EPSILON, "norm_eps"),
        fixed={"norm_topk_prob": True, "routed_scaling_factor": 1.0},
        neutral={"expert_gating_func": (2,)},
        head_dim=False,
        layouts={r"shortconv\.conv\.weight": layouts.convolution},
        read=_lfm2_moe,
    ),
    "qwen3next": Architecture(
        "qwen3_next",
        {**_GATED_DELTA, **_QWEN_EXPERTS},
        fixed={"norm_topk_prob": True, "decoder_sparse_step": 1},
        neutral={"expert_gating_func": (0, 1)},
        partial_rotary=True,
        layouts=_QWEN_NEXT,
        merges={r"linear_attn\.in_proj_qkvz": Merge(("attn_qkv", "attn_gate"), layouts.linear_attention_heads)},
        read=_qwen3_next,
    ),
    # Text has one position in all sections of the rotary dimensions.
    "qwen35": Architecture(
        "qwen3_5_text",
        _GATED_DELTA,
        neutral={"rope.dimension_sections": None},
        partial_rotary=True,
        predictors=True,
        layouts=_QWEN35,
        read=_qwen3_next,
    ),
    "qwen35moe": Architecture(
        "qwen3_5_moe_text",
        {name: field for name, field in {**_GATED_DELTA, **_QWEN_EXPERTS}.items() if name != "feed_forward_length"},
        neutral={"rope.dimension_sections": None, "expert_gating_func": (0, 1), "feed_forward_length": None},
        partial_rotary=True,
        predictors=True,
        layouts=_QWEN35,
        read=_qwen3_next,
    ),
    "granitehybrid": Architecture(
        "granitemoehybrid",
        {
            **DENSE,
            "ssm.conv_kernel": "mamba_d_conv",
            "ssm.state_size": "mamba_d_state",
            "ssm.time_step_rank": "mamba_n_heads",
        },
        numbers=GRANITE_SCALES,
        neutral={"expert_gating_func": (0, 1)},
        head_dim=False,
        layouts={**PERMUTED, **_MAMBA2},
        merges={
            **GRANITE_EXPERTS,
            r"mlp\.input_linear": Merge(("ffn_gate", "ffn_up"), layouts.rows),
            r"mlp\.output_linear": Merge(("ffn_down",), layouts.first),
        },
        read=_granite_hybrid,
    ),
    "falcon-h1": Architecture(
        "falcon_h1",
        {
            **DENSE,
            "attention.head_count_kv": "num_key_value_heads",
            "ssm.conv_kernel": "mamba_d_conv",
            "ssm.state_size": "mamba_d_state",
            "ssm.time_step_rank": "mamba_n_heads",
            "ssm.group_count": "mamba_n_groups",
            "ssm.inner_size": "mamba_d_ssm",
        },
        # The converter multiplies the weights by them.
        fixed={
            **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier", "key_multiplier"), 1.0),
            **dict.fromkeys(("ssm_in_multiplier", "ssm_out_multiplier"), 1.0),
            **dict.fromkeys(("embedding_multiplier", "lm_head_multiplier"), 1.0),
            "mlp_multipliers": [1.0, 1.0],
            "ssm_multipliers": [1.0] * 5,
        },
        layouts=_MAMBA2,
        read=_falcon_h1,
    ),
    "nemotron_h": Architecture(
        "nemotron_h",
        {
            "block_count": "num_hidden_layers",
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "attention.head_count": "num_attention_heads",
            "ssm.conv_kernel": "conv_kernel",
            "ssm.state_size": "ssm_state_size",
            "ssm.time_step_rank": "mamba_num_heads",
            "ssm.group_count": "n_groups",
        },
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        # Its attention has no positions.
        neutral={"rope.freq_base": None, "rope.dimension_count": None},
        rope=False,
        layouts=_MAMBA2,
        read=_nemotron_h,
    ),
    "jamba": Architecture(
        "jamba",
        {
            **DENSE,
            "expert_count": "num_experts",
            "expert_used_count": "num_experts_per_tok",
            "ssm.conv_kernel": "mamba_d_conv",
            "ssm.state_size": "mamba_d_state",
            "ssm.time_step_rank": "mamba_dt_rank",
        },
        rope=False,
        head_dim=False,
        layouts=_MAMBA,
        read=_jamba,
    ),
}
