"""The architectures that can be read from GGUF, and the configuration fields that their metadata keys set.

The keys and their meaning are those of llama.cpp's code for each architecture (src/models); the fields are those of the
transformers configuration that describes the same computation. What llama.cpp fixes in code is a fixed field here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RMS_EPSILON, LAYER_EPSILON = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
_DENSE = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_KV_HEADS = {"attention.head_count_kv": "num_key_value_heads"}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


@dataclass(frozen=True)
class Architecture:
    """How a GGUF architecture becomes a transformers configuration.

    Attributes:
        model_type: as transformers names it.
        counts: metadata key without the prefix "<architecture>." -> field, of required positive integers.
        epsilon: metadata key and field of the norms' epsilon.
        fixed: fields that llama.cpp's code for the architecture fixes.
        neutral: keys that change nothing in this architecture, as `metadata.NEUTRAL`.
        rope: the architecture rotates queries and keys; otherwise it has learned positions.
        partial_rotary: the configuration can rotate a part of each head.
        head_dim: the configuration can have a head size other than hidden size / heads.
    """

    model_type: str
    counts: Mapping[str, str]
    epsilon: tuple[str, str] = (RMS_EPSILON, "rms_norm_eps")
    fixed: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...] | None] = field(default_factory=dict)
    rope: bool = True
    partial_rotary: bool = False
    head_dim: bool = True


# tensor_data_layout: the old converter's name for the layout that all files of the architecture have.
ARCHITECTURES = {
    "llama": Architecture(
        "llama", {**_DENSE, **_KV_HEADS}, neutral={"tensor_data_layout": ("Meta AI original pth", "reference")}
    ),
    "qwen2": Architecture("qwen2", {**_DENSE, **_KV_HEADS}, fixed={"use_sliding_window": False}, head_dim=False),
    "qwen2moe": Architecture(
        "qwen2_moe",
        {
            **_DENSE,
            **_KV_HEADS,
            **_EXPERTS,
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        fixed={"use_sliding_window": False, "norm_topk_prob": False, "decoder_sparse_step": 1},
        neutral={"expert_gating_func": (0, 1), "expert_shared_count": None},
        head_dim=False,
    ),
    "qwen3": Architecture("qwen3", {**_DENSE, **_KV_HEADS}, fixed={"use_sliding_window": False}),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {**_DENSE, **_KV_HEADS, **_EXPERTS},
        fixed={"use_sliding_window": False, "norm_topk_prob": True, "decoder_sparse_step": 1},
        neutral={"expert_gating_func": (0, 1), "expert_weights_norm": (True,)},
    ),
    "phi3": Architecture("phi3", {**_DENSE, **_KV_HEADS}, partial_rotary=True, head_dim=False),
    "gemma2": Architecture("gemma2", {**_DENSE, **_KV_HEADS}),
    "gemma3": Architecture("gemma3_text", {**_DENSE, **_KV_HEADS}),
    "starcoder2": Architecture(
        "starcoder2",
        {**_DENSE, **_KV_HEADS},
        epsilon=(LAYER_EPSILON, "norm_epsilon"),
        fixed={"sliding_window": None, "use_bias": True},
        head_dim=False,
    ),
    "stablelm": Architecture(
        "stablelm",
        {**_DENSE, **_KV_HEADS},
        epsilon=(LAYER_EPSILON, "layer_norm_eps"),
        # The tensors say whether the residual is parallel, in llama.cpp too.
        neutral={"use_parallel_residual": None},
        partial_rotary=True,
        head_dim=False,
    ),
    "nemotron": Architecture(
        "nemotron", {**_DENSE, **_KV_HEADS}, epsilon=(LAYER_EPSILON, "norm_eps"), partial_rotary=True
    ),
    "falcon": Architecture(
        "falcon",
        {**_DENSE, "attention.head_count_kv": "num_kv_heads", "feed_forward_length": "ffn_hidden_size"},
        epsilon=(LAYER_EPSILON, "layer_norm_epsilon"),
        fixed={"multi_query": True, "new_decoder_architecture": False, "parallel_attn": True, "alibi": False},
        neutral={"tensor_data_layout": ("jploski",)},
        head_dim=False,
    ),
    "gpt2": Architecture(
        "gpt2",
        {
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
        },
        epsilon=(LAYER_EPSILON, "layer_norm_epsilon"),
        # GPT-2 has as many key-value heads as heads, which the shape of attn_qkv shows.
        neutral={"attention.head_count_kv": None},
        rope=False,
        head_dim=False,
    ),
}
