"""What rows of `state_architectures` read from the metadata beyond sizes: kinds of layers and sizes of states."""

from typing import Any

from edgekiln.sources.gguf.metadata import Metadata

_KV_HEADS = "attention.head_count_kv"


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


def mamba(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Mamba."""
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


def mamba2(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Mamba-2 with one group."""
    _one_group(metadata)
    parsed["expand"] = _expand(metadata)
    parsed["n_groups"] = 1
    parsed["head_dim"] = _head_size(metadata, parsed["num_heads"])


def lfm2(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """LFM2: short convolutions and attention."""
    kinds = ["full_attention" if count else "conv" for count in _kv_heads(metadata, parsed)]
    parsed["layer_types"] = kinds


def lfm2_moe(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """LFM2 with experts."""
    lfm2(metadata, parsed)
    parsed["num_dense_layers"] = int(metadata.number("leading_dense_block_count", 0, zero=True))
    parsed["use_expert_bias"] = any(name.endswith("exp_probs_b.bias") for name in metadata.file.tensors)


def qwen3_next(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Qwen3-Next and Qwen3.5: gated delta rules and attention."""
    heads, inner = parsed["linear_num_value_heads"], metadata.count("ssm.inner_size")
    if inner % heads or heads % parsed["linear_num_key_heads"]:
        raise metadata.damaged("ssm.inner_size", inner, f"a multiple of the {heads} value heads")
    parsed["linear_value_head_dim"] = inner // heads
    interval, layers = metadata.count("full_attention_interval", 4), parsed["num_hidden_layers"]
    parsed["layer_types"] = [
        "full_attention" if layer % interval == interval - 1 else "linear_attention" for layer in range(layers)
    ]


def granite_hybrid(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Granite 4, with and without experts."""
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


def falcon_h1(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Falcon-H1: Mamba-2 beside attention in each layer."""
    parsed["mamba_d_head"] = _head_size(metadata, parsed["mamba_n_heads"])
    parsed["mamba_rms_norm"] = "blk.0.ssm_norm.weight" in metadata.file.tensors
    parsed["mamba_conv_bias"] = "blk.0.ssm_conv1d.bias" in metadata.file.tensors


def nemotron_h(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Nemotron-H, with MLPs or experts: a layer is a mixer or an MLP."""
    layers, tensors = parsed.pop("num_hidden_layers"), metadata.file.tensors
    widths = metadata.array("feed_forward_length", layers) or []
    found = {width for width in widths if width}
    if len(found) != 1 or not all(isinstance(width, int) for width in found):
        raise metadata.unsupported("feed_forward_length", "it differs between layers with an MLP, or none has any")
    (parsed["intermediate_size"],) = found
    counts = _kv_heads(metadata, {**parsed, "num_hidden_layers": layers})
    parsed["num_key_value_heads"] = max(counts)
    mlp = "moe" if metadata.architecture == "nemotron_h_moe" else "mlp"
    parsed["layers_block_type"] = [
        mlp if width else "full_attention" if count else "linear_attention"
        for width, count in zip(widths, counts, strict=True)
    ]
    parsed["mamba_head_dim"] = _head_size(metadata, parsed["mamba_num_heads"])
    parsed["use_conv_bias"] = any(name.endswith("ssm_conv1d.bias") for name in tensors)
    if mlp == "moe":
        parsed["norm_topk_prob"] = bool(metadata.value("expert_weights_norm"))
        parsed["routed_scaling_factor"] = metadata.number("expert_weights_scale", 1.0)


def jamba(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Jamba: Mamba and attention, with experts in some layers."""
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
