"""Shapes of hybrid and recurrent models with about 350 million parameters, and of a plain decoder of that size.

Where a model of the family has that size, the shape is its own but for the vocabulary, which is the tokenizer's:
SmolLM2-360M, LFM2-350M, mamba-370m, mamba2-370m. The others have the widths of the family's smallest model and the
layers that make up 350 million.
"""

from typing import Any

# Layers of LFM2-350M that are attention; the others are short convolutions.
_LFM2_ATTENTION = [2, 5, 8, 10, 12, 14]
_GRANITE_LAYERS, _GRANITE_ATTENTION = 38, {10, 16, 22, 33}
_COMMON: dict[str, object] = {"tie_word_embeddings": True, "max_position_embeddings": 4096}
PLAIN = "random-llama-360m"

HYBRID_SHAPES: dict[str, dict[str, Any]] = {
    PLAIN: {
        "model_type": "llama",
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        **_COMMON,
    },
    "random-lfm2-350m": {
        "model_type": "lfm2",
        "hidden_size": 1024,
        "intermediate_size": 6656,
        "block_ff_dim": 6656,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "conv_L_cache": 3,
        "full_attn_idxs": _LFM2_ATTENTION,
        **_COMMON,
    },
    # Gated DeltaNet, with attention in every fourth layer.
    "random-qwen3.5-350m": {
        "model_type": "qwen3_5_text",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        **_COMMON,
    },
    "random-mamba-370m": {
        "model_type": "mamba",
        "hidden_size": 1024,
        "num_hidden_layers": 48,
        "state_size": 16,
        "expand": 2,
        "conv_kernel": 4,
        **_COMMON,
    },
    "random-mamba2-370m": {
        "model_type": "mamba2",
        "hidden_size": 1024,
        "num_hidden_layers": 48,
        "state_size": 128,
        "num_heads": 32,
        "head_dim": 64,
        "expand": 2,
        "n_groups": 1,
        "conv_kernel": 4,
        **_COMMON,
    },
    # Granite-4.0-H-350M: Mamba-2 and attention without positions.
    "random-granite-h-350m": {
        "model_type": "granitemoehybrid",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "shared_intermediate_size": 2048,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "num_hidden_layers": _GRANITE_LAYERS,
        "layer_types": ["attention" if i in _GRANITE_ATTENTION else "mamba" for i in range(_GRANITE_LAYERS)],
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "mamba_n_heads": 48,
        "mamba_d_head": 32,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
        "mamba_expand": 2,
        "mamba_d_conv": 4,
        "position_embedding_type": "nope",
        **_COMMON,
    },
    # Falcon-H1-0.5B: Mamba-2 and attention side by side in each layer.
    "random-falcon-h1-350m": {
        "model_type": "falcon_h1",
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "mamba_d_ssm": 1536,
        "mamba_n_heads": 24,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
        "mamba_d_conv": 4,
        **_COMMON,
    },
}
