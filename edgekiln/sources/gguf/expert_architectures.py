"""Architectures with mixtures of experts, beside those of `architectures`."""

from typing import Any

from edgekiln.sources.gguf import layouts
from edgekiln.sources.gguf.architecture import DENSE, KV_HEADS, Architecture
from edgekiln.sources.gguf.dense_architectures import GRANITE_SCALES, PERMUTED, ROTATED, biases
from edgekiln.sources.gguf.layouts import Merge
from edgekiln.sources.gguf.metadata import Metadata
from edgekiln.sources.gguf.rope import rope_parameters
from edgekiln.sources.gguf.windows import layer_types

_SIZES = {**DENSE, **KV_HEADS}
_USED = {"expert_used_count": "num_experts_per_tok"}
_LOCAL = {"expert_count": "num_local_experts", **_USED}
_SIGMOID = 2  # llama.cpp's LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
# As llama.cpp has them: every fourth layer attends to everything, and only Maverick's queries and keys have no norm.
_LLAMA4_PERIOD, _MAVERICK_EXPERTS = 4, 128
# Granite's experts, and its shared expert, whose gate and up projections are one matrix in the model.
GRANITE_EXPERTS = {
    r"block_sparse_moe\.experts\.down_proj": Merge(("ffn_down_exps",), layouts.rows),
    r"block_sparse_moe\.router": Merge(("ffn_gate_inp",), layouts.rows),
    r"shared_mlp\.input_linear": Merge(("ffn_gate_shexp", "ffn_up_shexp"), layouts.rows),
    r"shared_mlp\.output_linear": Merge(("ffn_down_shexp",), layouts.rows),
}


def mixtral(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Llama's architecture with experts is Mixtral."""
    biases(metadata, parsed)
    if metadata.number("expert_count", 0, zero=True):
        parsed["model_type"], parsed["sliding_window"] = "mixtral", None
        parsed["num_local_experts"] = metadata.count("expert_count")
        parsed["num_experts_per_tok"] = metadata.count("expert_used_count")


def _granite_moe(metadata: Metadata, parsed: dict[str, Any]) -> None:
    biases(metadata, parsed)
    if shared := int(metadata.number("expert_shared_feed_forward_length", 0, zero=True)):
        parsed["model_type"], parsed["shared_intermediate_size"] = "granitemoeshared", shared


def _gpt_oss(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["sliding_window"] = metadata.count("attention.sliding_window")
    parsed["layer_types"] = layer_types(metadata, parsed["num_hidden_layers"], 2)
    if parsed["rope_parameters"]["rope_type"] == "yarn":
        # The ramp's ends are no whole dimensions in the published model.
        parsed["rope_parameters"]["truncate"] = False


def _sigmoid_router(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Routers of DeepSeek-V3's kind: sigmoid, a bias for the choice, normalized weights and a factor."""
    parsed["n_shared_experts"] = int(metadata.number("expert_shared_count", 0, zero=True))
    parsed["first_k_dense_replace"] = int(metadata.number("leading_dense_block_count", 0, zero=True))
    parsed["norm_topk_prob"] = bool(metadata.value("expert_weights_norm"))
    parsed["routed_scaling_factor"] = metadata.number("expert_weights_scale", 1.0)
    parsed["n_group"] = parsed["topk_group"] = 1
    if metadata.value("expert_gating_func") not in (None, _SIGMOID):
        raise metadata.unsupported("expert_gating_func", "sigmoid (2) is possible")


def _glm4_moe(metadata: Metadata, parsed: dict[str, Any]) -> None:
    _sigmoid_router(metadata, parsed)
    parsed["attention_bias"] = "blk.0.attn_q.bias" in metadata.file.tensors
    parsed["use_qk_norm"] = "blk.0.attn_q_norm.weight" in metadata.file.tensors


def _exaone_moe(metadata: Metadata, parsed: dict[str, Any]) -> None:
    _sigmoid_router(metadata, parsed)
    layers, dense = parsed["num_hidden_layers"], parsed["first_k_dense_replace"]
    parsed["num_shared_experts"] = parsed.pop("n_shared_experts")
    parsed["mlp_layer_types"] = ["dense" if layer < dense else "sparse" for layer in range(layers)]
    parsed["sliding_window"] = metadata.count("attention.sliding_window")
    parsed["layer_types"] = layer_types(metadata, layers, 4)


def _deepseek(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Latent attention and experts of DeepSeek-V2 (softmax router) and V3 (sigmoid router)."""
    gating = metadata.value("expert_gating_func")
    sigmoid = gating == _SIGMOID
    if gating not in (None, 0, 1, _SIGMOID):
        raise metadata.unsupported("expert_gating_func", "softmax (1) and sigmoid (2) are possible")
    parsed["model_type"] = "deepseek_v3" if sigmoid else "deepseek_v2"
    heads, rotated = metadata.count("attention.head_count"), metadata.count("rope.dimension_count")
    # Files for llama.cpp's latent attention have the sizes of latent keys and values under the shorter names.
    sizes = [
        metadata.count(f"attention.{part}_length_mla", metadata.count(f"attention.{part}_length"))
        for part in ("key", "value")
    ]
    if sizes[0] <= rotated:
        raise metadata.damaged("rope.dimension_count", rotated, f"less than the size of a key, {sizes[0]}")
    rank = int(metadata.number("attention.q_lora_rank", 0, zero=True))
    parsed |= {
        "num_key_value_heads": heads,
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": sizes[0] - rotated,
        "v_head_dim": sizes[1],
        "q_lora_rank": rank or None,
        "n_shared_experts": metadata.count("expert_shared_count"),
        "first_k_dense_replace": int(metadata.number("leading_dense_block_count", 0, zero=True)),
        "norm_topk_prob": bool(metadata.value("expert_weights_norm")),
        "routed_scaling_factor": metadata.number("expert_weights_scale", 0, zero=True) or 1.0,
        "n_group": int(metadata.number("expert_group_count", 1)),
        "topk_group": int(metadata.number("expert_group_used_count", 1)),
        "rope_parameters": rope_parameters(metadata, rotated, metadata.count("context_length"), mscale=True),
    }
    rope = parsed["rope_parameters"]
    if rope["rope_type"] == "yarn" and "mscale" not in rope:
        raise metadata.unsupported("rope.scaling.type", "without rope.scaling.yarn_log_multiplier")
    if not sigmoid:
        parsed["topk_method"] = "group_limited_greedy" if parsed["n_group"] > 1 else "greedy"
        if parsed["norm_topk_prob"]:
            raise metadata.unsupported("expert_weights_norm", "DeepSeek-V2 of transformers does not normalize")


def _llama4(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Llama 4, whose chunks, temperatures and layers without RoPE llama.cpp fixes."""
    if metadata.value("attention.sliding_window") == 0:
        raise metadata.unsupported("attention.sliding_window", "Llama 4 has chunks of 8192 tokens")
    if metadata.value("attention.sliding_window_pattern") not in (None, _LLAMA4_PERIOD):
        raise metadata.unsupported("attention.sliding_window_pattern", f"every {_LLAMA4_PERIOD}th layer has no RoPE")
    parsed["use_qk_norm"] = parsed["num_local_experts"] != _MAVERICK_EXPERTS


def _ernie_moe(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["moe_layer_start_index"] = int(metadata.number("leading_dense_block_count", 0, zero=True))
    parsed["moe_layer_end_index"] = -1
    parsed["moe_layer_interval"] = int(metadata.number("interleave_moe_layer_step", 1))
    parsed["moe_num_shared_experts"] = int(metadata.number("expert_shared_count", 0, zero=True))


EXPERT_ARCHITECTURES = {
    "deepseek2": Architecture(
        "deepseek_v2",
        {
            **DENSE,
            **_USED,
            "expert_count": "n_routed_experts",
            "expert_feed_forward_length": "moe_intermediate_size",
            "attention.kv_lora_rank": "kv_lora_rank",
        },
        neutral={"attention.head_count_kv": None},
        rope=False,
        attention=False,
        predictors=True,
        merges={r"self_attn\.kv_b_proj": Merge(("attn_k_b", "attn_v_b"), layouts.latent_heads)},
        read=_deepseek,
    ),
    "llama4": Architecture(
        "llama4_text",
        {
            **_SIZES,
            **_LOCAL,
            "feed_forward_length": "intermediate_size_mlp",
            "expert_feed_forward_length": "intermediate_size",
            "interleave_moe_layer_step": "interleave_moe_layer_step",
        },
        fixed={
            "attention_chunk_size": 8192,
            "no_rope_layer_interval": _LLAMA4_PERIOD,
            "attn_temperature_tuning": True,
            "floor_scale": 8192,
            "attn_scale": 0.1,
        },
        layouts={r"ffn_down_exps\.weight": layouts.transposed_experts},
        merges={
            r"experts\.gate_up_proj": Merge(("ffn_gate_exps", "ffn_up_exps"), layouts.expert_columns),
            r"experts\.down_proj": Merge(("ffn_down_exps",), layouts.rows),
        },
        read=_llama4,
    ),
    "minimax-m2": Architecture(
        "minimax_m2",
        {**_SIZES, **_LOCAL, "expert_feed_forward_length": "intermediate_size"},
        neutral={"expert_gating_func": (_SIGMOID,), "expert_weights_norm": (True,)},
        partial_rotary=True,
    ),
    "ernie4_5-moe": Architecture(
        "ernie4_5_moe",
        {
            **_SIZES,
            "expert_count": "moe_num_experts",
            "expert_used_count": "moe_k",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        fixed={"use_bias": False},
        # The shapes of the shared expert's tensors say the same; the converter derives this number wrongly.
        neutral={"expert_shared_feed_forward_length": None, "expert_gating_func": (0, 1)},
        merges={r"moe_statics\.e_score_correction": Merge(("exp_probs_b",), layouts.first_as_row)},
        read=_ernie_moe,
    ),
    "olmoe": Architecture(
        "olmoe",
        {**_SIZES, "expert_count": "num_experts", **_USED},
        numbers={"attention.clamp_kqv": ("clip_qkv", None)},
        fixed={"norm_topk_prob": False},
        neutral={"expert_gating_func": (0, 1)},
        head_dim=False,
    ),
    "granitemoe": Architecture(
        "granitemoe",
        {**_SIZES, **_LOCAL},
        numbers=GRANITE_SCALES,
        neutral={**ROTATED, "expert_gating_func": (0, 1)},
        head_dim=False,
        layouts=PERMUTED,
        merges=GRANITE_EXPERTS,
        read=_granite_moe,
    ),
    "gpt-oss": Architecture(
        "gpt_oss",
        {**_SIZES, **_LOCAL, "expert_feed_forward_length": "intermediate_size"},
        fixed={"attention_bias": True},
        layouts={r"ffn_down_exps\.(weight|bias)": layouts.transposed_experts},
        merges={
            r"mlp\.experts\.gate_up_proj": Merge(("ffn_gate_exps", "ffn_up_exps"), layouts.interleaved_experts),
            r"mlp\.experts\.down_proj": Merge(("ffn_down_exps",), layouts.rows),
        },
        read=_gpt_oss,
    ),
    "glm4moe": Architecture(
        "glm4_moe",
        {
            **_SIZES,
            **_USED,
            "expert_count": "n_routed_experts",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        partial_rotary=True,
        predictors=True,
        read=_glm4_moe,
    ),
    "exaone-moe": Architecture(
        "exaone_moe",
        {**_SIZES, **_USED, "expert_count": "num_experts", "expert_feed_forward_length": "moe_intermediate_size"},
        # The shapes of the shared expert's tensors say the same.
        neutral={"expert_shared_feed_forward_length": None},
        read=_exaone_moe,
    ),
    "dots1": Architecture(
        "dots1",
        {
            **_SIZES,
            **_USED,
            "expert_count": "n_routed_experts",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        fixed={"sliding_window": None},
        read=_sigmoid_router,
    ),
    "qwen3vlmoe": Architecture(
        "qwen3_moe",
        {
            **_SIZES,
            **_USED,
            "expert_count": "num_experts",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        fixed={"use_sliding_window": False, "norm_topk_prob": True, "decoder_sparse_step": 1},
        neutral={
            "expert_gating_func": (0, 1),
            "expert_weights_norm": (True,),
            "rope.dimension_sections": None,
            "n_deepstack_layers": None,
        },
    ),
}
