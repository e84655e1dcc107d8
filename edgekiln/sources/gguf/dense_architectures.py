"""Architectures of dense decoders with attention in every layer, beside those of `architectures`."""

from typing import Any

from edgekiln.sources.gguf import layouts
from edgekiln.sources.gguf.architecture import DENSE, KV_HEADS, LAYER_EPSILON, Architecture
from edgekiln.sources.gguf.metadata import Metadata
from edgekiln.sources.gguf.windows import layer_types

_SIZES = {**DENSE, **KV_HEADS}
PERMUTED = {r"attn_q\.(weight|bias)": layouts.query, r"attn_k\.(weight|bias)": layouts.key}
_QKV = {r"attn_qkv\.(weight|bias)": layouts.interleaved_heads}
GRANITE_SCALES: dict[str, tuple[str, float | None]] = {
    "attention.scale": ("attention_multiplier", None),
    "embedding_scale": ("embedding_multiplier", None),
    "residual_scale": ("residual_multiplier", None),
    "logit_scale": ("logits_scaling", None),
}
# Granite's models without positions say so with this key.
ROTATED: dict[str, tuple[Any, ...] | None] = {"rope.scaling.finetuned": (True,)}
_GPT2 = {
    "block_count": "n_layer",
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
}
_OLMO_EPSILON = 1e-5
_BAICHUAN_ALIBI_LAYERS = 40  # llama.cpp: the model of 13 billion parameters has ALiBi in place of RoPE


def biases(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Biases of llama's kind: of all four attention projections, or of the MLP."""
    parsed["attention_bias"] = "blk.0.attn_output.bias" in metadata.file.tensors
    parsed["mlp_bias"] = "blk.0.ffn_down.bias" in metadata.file.tensors


def _minicpm(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """MiniCPM computes as Granite does; old files leave the scales to llama.cpp's code."""
    biases(metadata, parsed)
    for key in ("embedding_scale", "residual_scale", "logit_scale"):
        if not metadata.value(key):
            raise metadata.unsupported(key, "a file of MiniCPM's first converter")


def _query_biases(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["attention_bias"] = "blk.0.attn_q.bias" in metadata.file.tensors


def _olmo(metadata: Metadata, parsed: dict[str, Any]) -> None:
    if abs(parsed.pop("layer_norm_eps") - _OLMO_EPSILON) > _OLMO_EPSILON / 1000:
        raise metadata.unsupported(LAYER_EPSILON, f"OLMo of transformers has {_OLMO_EPSILON}")


def _olmo2(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """OLMo 3 has the architecture of OLMo 2 and sliding windows."""
    if window := metadata.number("attention.sliding_window", 0, zero=True):
        parsed["model_type"], parsed["sliding_window"] = "olmo3", int(window)
        parsed["layer_types"] = layer_types(metadata, parsed["num_hidden_layers"], 4)
        rope = parsed["rope_parameters"]
        theta = metadata.number("rope.freq_base_swa", rope["rope_theta"])
        parsed["rope_parameters"] = {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        }


def _exaone4(metadata: Metadata, parsed: dict[str, Any]) -> None:
    layers, window = parsed["num_hidden_layers"], metadata.number("attention.sliding_window", 0, zero=True)
    parsed["sliding_window"] = int(window) or None
    parsed["layer_types"] = layer_types(metadata, layers, 4) if window else ["full_attention"] * layers


def _cohere(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["use_qk_norm"] = "blk.0.attn_q_norm.weight" in metadata.file.tensors


def _cohere2(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["sliding_window"] = metadata.count("attention.sliding_window")
    parsed["layer_types"] = layer_types(metadata, parsed["num_hidden_layers"], 4)


def _gpt_neox(metadata: Metadata, parsed: dict[str, Any]) -> None:
    parsed["use_parallel_residual"] = bool(metadata.value("use_parallel_residual"))


def _baichuan(metadata: Metadata, parsed: dict[str, Any]) -> None:
    if parsed["num_hidden_layers"] == _BAICHUAN_ALIBI_LAYERS:
        raise metadata.unsupported("block_count", "Baichuan 13B, which has ALiBi")


def _four_times_hidden(metadata: Metadata) -> None:
    if metadata.count("feed_forward_length") != 4 * metadata.count("embedding_length"):
        raise metadata.unsupported("feed_forward_length", "other than 4 times embedding_length")


def _bloom(metadata: Metadata, _parsed: dict[str, Any]) -> None:
    _four_times_hidden(metadata)


def _mpt(metadata: Metadata, parsed: dict[str, Any]) -> None:
    _four_times_hidden(metadata)
    bias = metadata.number("attention.max_alibi_bias", 0, zero=True)
    if not bias:
        raise metadata.unsupported("attention.max_alibi_bias", "MPT of transformers has ALiBi")
    clip = metadata.number("attention.clamp_kqv", 0, zero=True)
    if bias != int(bias):
        raise metadata.unsupported("attention.max_alibi_bias", "MPT of transformers has a whole number")
    parsed["attn_config"] = {"alibi": True, "alibi_bias_max": int(bias), "clip_qkv": clip or None}


def _starcoder(metadata: Metadata, parsed: dict[str, Any]) -> None:
    heads = parsed["n_head"]
    kv_heads = metadata.count("attention.head_count_kv", heads)
    if kv_heads not in (1, heads):
        raise metadata.unsupported("attention.head_count_kv", f"1 or {heads} are possible")
    parsed["multi_query"] = kv_heads == 1
    if kv_heads != 1:
        raise metadata.unsupported("attention.head_count_kv", "StarCoder without multi-query attention")


def _mistral3(metadata: Metadata, parsed: dict[str, Any]) -> None:
    """Mistral Small 3 is Mistral; Ministral 3 also scales attention with the position."""
    parsed["sliding_window"] = None
    rope = parsed["rope_parameters"]
    beta = metadata.number("attention.temperature_scale", 0, zero=True)
    if not beta:
        if rope["rope_type"] != "default":
            raise metadata.unsupported("rope.scaling.type", "without attention.temperature_scale")
        return
    if rope["rope_type"] != "yarn" or "mscale_all_dim" not in rope:
        raise metadata.unsupported("attention.temperature_scale", "without YaRN and its yarn_log_multiplier")
    parsed["model_type"] = "ministral3"
    # The key holds mscale_all_dim itself here; llama.cpp's mscale is 1.
    multiplier = metadata.number("rope.scaling.yarn_log_multiplier")
    rope |= {"mscale": 1.0, "mscale_all_dim": multiplier, "llama_4_scaling_beta": beta}


DENSE_ARCHITECTURES = {
    "mistral3": Architecture("mistral", _SIZES, yarn_multiplier=True, layouts=PERMUTED, read=_mistral3),
    "gemma": Architecture("gemma", _SIZES, layouts={r".*norm\.weight": layouts.minus_one}),
    "phi2": Architecture("phi", _SIZES, epsilon=(LAYER_EPSILON, "layer_norm_eps"), partial_rotary=True, head_dim=False),
    "olmo": Architecture(
        "olmo",
        _SIZES,
        epsilon=(LAYER_EPSILON, "layer_norm_eps"),
        numbers={"attention.clamp_kqv": ("clip_qkv", None)},
        head_dim=False,
        layouts=PERMUTED,
        read=_olmo,
    ),
    "olmo2": Architecture("olmo2", _SIZES, head_dim=False, read=_olmo2),
    "seed_oss": Architecture("seed_oss", _SIZES, fixed={"attention_out_bias": False}, read=_query_biases),
    "arcee": Architecture("arcee", _SIZES, layouts=PERMUTED),
    "smollm3": Architecture(
        "smollm3",
        _SIZES,
        fixed={"no_rope_layer_interval": 4, "use_sliding_window": False},
        head_dim=False,
        layouts=PERMUTED,
    ),
    "ernie4_5": Architecture("ernie4_5", _SIZES, fixed={"use_bias": False}),
    # The converter computes the base from HunYuan's alpha.
    "hunyuan-dense": Architecture("hunyuan_v1_dense", _SIZES, read=_query_biases),
    "glm4": Architecture("glm4", _SIZES, partial_rotary=True, read=_query_biases),
    "chatglm": Architecture("glm", _SIZES, partial_rotary=True, read=_query_biases),
    "granite": Architecture(
        "granite",
        _SIZES,
        numbers=GRANITE_SCALES,
        neutral=ROTATED,
        head_dim=False,
        layouts=PERMUTED,
        read=biases,
    ),
    "minicpm": Architecture("granite", _SIZES, numbers=GRANITE_SCALES, head_dim=False, layouts=PERMUTED, read=_minicpm),
    # Llama's computation under other names; EXAONE's converter does not permute.
    "exaone": Architecture("llama", _SIZES, head_dim=False),
    "internlm2": Architecture("llama", _SIZES, layouts=PERMUTED),
    "xverse": Architecture("llama", _SIZES, layouts=PERMUTED),
    "baichuan": Architecture("llama", _SIZES, layouts=PERMUTED, read=_baichuan),
    "exaone4": Architecture("exaone4", _SIZES, read=_exaone4),
    "command-r": Architecture(
        "cohere",
        _SIZES,
        epsilon=(LAYER_EPSILON, "layer_norm_eps"),
        numbers={"logit_scale": ("logit_scale", None)},
        head_dim=False,
        read=_cohere,
    ),
    "cohere2": Architecture(
        "cohere2",
        _SIZES,
        epsilon=(LAYER_EPSILON, "layer_norm_eps"),
        numbers={"logit_scale": ("logit_scale", None)},
        head_dim=False,
        read=_cohere2,
    ),
    "gptneox": Architecture(
        "gpt_neox",
        DENSE,
        epsilon=(LAYER_EPSILON, "layer_norm_eps"),
        partial_rotary=True,
        head_dim=False,
        layouts=_QKV,
        read=_gpt_neox,
    ),
    "bloom": Architecture(
        "bloom",
        {
            "block_count": "n_layer",
            "context_length": "seq_length",
            "embedding_length": "hidden_size",
            "attention.head_count": "n_head",
        },
        epsilon=(LAYER_EPSILON, "layer_norm_epsilon"),
        neutral={"attention.head_count_kv": None},
        rope=False,
        head_dim=False,
        layouts=_QKV,
        read=_bloom,
    ),
    "mpt": Architecture(
        "mpt",
        {
            "block_count": "n_layers",
            "context_length": "max_seq_len",
            "embedding_length": "d_model",
            "attention.head_count": "n_heads",
        },
        epsilon=(LAYER_EPSILON, "layer_norm_epsilon"),
        rope=False,
        head_dim=False,
        read=_mpt,
    ),
    "starcoder": Architecture(
        "gpt_bigcode",
        _GPT2,
        epsilon=(LAYER_EPSILON, "layer_norm_epsilon"),
        rope=False,
        head_dim=False,
        read=_starcoder,
    ),
    # The decoder of models with images: text has one position in all sections, and no image features are added to it.
    "qwen2vl": Architecture(
        "qwen2",
        _SIZES,
        fixed={"use_sliding_window": False},
        neutral={"rope.dimension_sections": None},
        head_dim=False,
    ),
    "qwen3vl": Architecture(
        "qwen3",
        _SIZES,
        fixed={"use_sliding_window": False},
        neutral={"rope.dimension_sections": None, "n_deepstack_layers": None},
    ),
}
