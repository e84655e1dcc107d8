"""Shapes of well-known mixtures of experts, with the names that their checkpoints give to the experts' weights.

Their checkpoints are larger than memory: `bench.common.random_checkpoint` writes them tensor by tensor.
"""

from typing import Any

_QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}

MIXTURE_SHAPES: dict[str, dict[str, Any]] = {
    # OLMoE-1B-7B: 6.9 billion parameters, 1.3 billion of them for a token.
    "random-olmoe-7b": {
        "model_type": "olmoe",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "vocab_size": 50304,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    # Qwen3-30B-A3B with 8 of its 48 layers: 5.6 billion parameters.
    "random-qwen3-moe-8-layers": {**_QWEN3_MOE, "num_hidden_layers": 8},
    # With 15: 20 GB in bfloat16.
    "random-qwen3-moe-15-layers": {**_QWEN3_MOE, "num_hidden_layers": 15},
}
