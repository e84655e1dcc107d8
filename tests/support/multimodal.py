"""Tiny random checkpoints of models that take images or audio besides text."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PretrainedConfig

from edgekiln.sources.composite import composite_class, without_missing_libraries
from families.tiny import large_weights
from support.models import VOCABULARY, tiny_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
# Sizes of towers, under the names that their configurations give them.
_SMALL: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "hidden_dim", "encoder_dim", "n_embd"), 32),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "mlp_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers", "num_layers", "n_layer"), 2),
    **dict.fromkeys(
        ("num_attention_heads", "num_heads", "encoder_attention_heads", "n_head", "num_key_value_heads"), 2
    ),
    **dict.fromkeys(("head_dim", "dim_head"), 16),
    **dict.fromkeys(("out_hidden_size", "projection_dim", "output_dim"), 64),
    **dict.fromkeys(("vocab_size",), 64),
}


def _mrope(*sections: int, **rope: Any) -> dict[str, Any]:
    """RoPE parameters with sections of temporal, height and width positions, in pairs of a head's 16 elements."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **rope}}


_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4}
_MOE: dict[str, Any] = {**_EXPERTS, "moe_intermediate_size": 32}
_WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
_KOSMOS = {"embed_dim": 64, "layers": 4, "ffn_dim": 128, "attention_heads": 4, "pad_token_id": 1}
_LATENT: dict[str, Any] = {
    **{**_MOE, "kv_lora_rank": 16, "q_lora_rank": 16},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
}
_PER_LAYER = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY}

Row = tuple[dict[str, Any], dict[str, Any]]
# Type -> values of the text configuration beyond `TEXT`, and of the whole one. To test a new type, add a row.
COMPOSITES: dict[str, Row] = {
    **dict.fromkeys(
        (
            "aria",
            "audioflamingo3",
            "cohere2_vision",
            "aya_vision",
            "deepseek_vl",
            "deepseek_vl_hybrid",
            "evolla",
            "exaone4_5",
            "fast_vlm",
            "gemma4_unified",
            "glmasr",
            "got_ocr2",
            "idefics2",
            "idefics3",
            "internvl",
            "lfm2_vl",
            "lighton_ocr",
            "minicpmv4_6",
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "mistral3",
            "musicflamingo",
            "ovis2",
            "phi4_multimodal",
            "pp_chart2table",
            "qianfan_ocr",
            "qwen2_audio",
            "qwen3_5",
            "qwen3_asr",
            "smolvlm",
            "video_llama_3",
            "video_llava",
            "vipllava",
            "voxtral",
        ),
        ({}, {}),
    ),
    **dict.fromkeys(
        (
            "cosmos3_edge",
            "cosmos3_omni",
            "glm46v",
            "glm4v",
            "glm_ocr",
            "glmga",
            "paddleocr_vl",
            "qwen2_5_omni_thinker",
            "qwen2_5_vl",
            "qwen2_vl",
            "qwen3_vl",
        ),
        (_mrope(2, 3, 3), {}),
    ),
    "chameleon": ({}, {"vq_config": {"base_channels": 32}, "vocabulary_map": {"<image>": 300}}),
    "emu3": ({}, {"vq_config": {"base_channels": 32}, "vocabulary_map": {"<image>": 300}}),
    "cohere_compass": (
        {
            **_WINDOWS,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
                for kind in ("sliding_attention", "full_attention")
            },
        },
        {},
    ),
    "ernie4_5_vl_moe": (
        {**_mrope(2, 2, 4), "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [32, 32]},
        {},
    ),
    "fun_asr_nano": ({}, {"adaptor_config": {"hidden_size": 64, "intermediate_size": 16}}),
    "fuyu": ({}, {"num_hidden_layers": 4}),
    "gemma3": ({**_WINDOWS}, {}),
    "gemma3n": (
        {**_WINDOWS, **_PER_LAYER, "intermediate_size": [128] * 4, "num_kv_shared_layers": 2},
        {
            "vision_config": {"vocab_size": 8, "vocab_offset": VOCABULARY},
            "audio_config": {"vocab_size": 8, "vocab_offset": VOCABULARY + 8},
        },
    ),
    "gemma4": ({**_PER_LAYER, "global_head_dim": 32, "sliding_window": 8}, {}),
    "glm4v_moe": (
        {**_MOE, **_mrope(1, 1, 2, partial_rotary_factor=0.5), "n_shared_experts": 1, "first_k_dense_replace": 1},
        {},
    ),
    "granite4_vision": (
        {"model_type": "granite", "logits_scaling": 8.0},
        {"deepstack_layer_map": [], "spatial_target_layers": [], "downsample_rate": "1/2"},
    ),
    "granite_speech": ({"logits_scaling": 8.0, "embedding_multiplier": 3.0}, {}),
    "granite_speech_plus": ({"logits_scaling": 8.0}, {}),
    "hunyuan_vl": (
        {
            "rope_parameters": {
                "rope_type": "xdrope",
                "rope_theta": 1e4,
                "mrope_section": [2] * 4,
                "alpha": 1000.0,
                "factor": 1.0,
            }
        },
        {},
    ),
    "janus": ({}, {"vq_config": {"base_channels": 32, "num_embeddings": 64}}),
    "kimi_k25": ({**_LATENT, "num_key_value_heads": 4, "head_dim": 8, "n_group": 1, "topk_group": 1}, {}),
    "llama4": ({**_MOE, "intermediate_size_mlp": 128}, {}),
    "minimax_m3_vl": (_MOE, {}),
    # Without an image, transformers leaves these layers out.
    "mllama": ({"cross_attention_layers": [1, 3]}, {}),
    "mistral4": ({**_LATENT, "num_key_value_heads": 4}, {}),
    "muse_glimmer": (
        {"sliding_window": 8, "final_logit_softcapping": 20.0},
        {"vision_config": {"layer_types": ["window_attention", "full_attention"]}},
    ),
    "perception_lm": ({}, {"vision_config": {"model_args": {"embed_dim": 32}}}),
    "qwen3_5_moe": ({**_MOE, "shared_expert_intermediate_size": 32}, {}),
    "qwen3_omni_moe_thinker": ({**_MOE, **_mrope(2, 3, 3), "shared_expert_intermediate_size": 32}, {}),
    "qwen3_vl_moe": ({**_MOE, **_mrope(2, 3, 3)}, {}),
    "vibevoice_asr": (
        {},
        {
            f"{kind}_tokenizer_encoder_config": {"num_filters": 4, "depths": [1] * 7}
            for kind in ("acoustic", "semantic")
        },
    ),
}
# Type -> the same values, and words of the sentence that refuses its decoder.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "kosmos-2.5": (_KOSMOS, {}, "transformers has no causal language model for kosmos_2_5_text_model"),
    "paligemma": ({}, {}, "attends in both directions"),
}


def tiny_composite(model_type: str, text: dict[str, Any], **fields: Any) -> Any:
    """A random model of `model_type` in float32, with `large_weights`.

    Args:
        model_type: of a configuration of transformers.
        text: values of the text configuration, beyond `TEXT`.
        fields: values of the whole configuration; those of towers replace their small sizes.
    """
    config = tiny_composite_config(model_type, text, **fields)
    model_class = composite_class(config)
    assert model_class is not None
    torch.manual_seed(0)
    with without_missing_libraries():
        model = model_class._from_config(config, attn_implementation="eager").float().eval()
    return large_weights(model)


def tiny_composite_config(model_type: str, text: dict[str, Any], **fields: Any) -> PretrainedConfig:
    """A configuration of `model_type` with small parts; arguments as in `tiny_composite`."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    parts = {}
    for name in config_class.sub_configs:
        part = getattr(default, name, None)
        if name == "text_config":
            parts[name] = {"model_type": part.model_type, **TEXT, **text}
        elif part is not None:
            small = {key: value for key, value in _SMALL.items() if isinstance(getattr(part, key, None), int)}
            parts[name] = {"model_type": part.model_type, **small, **fields.pop(name, {})}
    own = {} if "text_config" in parts else {**TEXT, **text}
    return config_class(**{**parts, **own, **fields})


def save_composite(directory: Path, model: Any) -> None:
    """Save a model with a tokenizer as a checkpoint, under the names that transformers publishes."""
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
