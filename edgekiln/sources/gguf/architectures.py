"""The architectures that can be read from GGUF, and the configuration fields that their metadata keys set.

The keys and their meaning are those of llama.cpp's code for each architecture (src/models); the fields are those of the
transformers configuration that describes the same computation. What llama.cpp fixes in code is a fixed field here.
"""

from edgekiln.sources.gguf import layouts
from edgekiln.sources.gguf.architecture import DENSE, KV_HEADS, LAYER_EPSILON, Architecture
from edgekiln.sources.gguf.dense_architectures import DENSE_ARCHITECTURES, PERMUTED
from edgekiln.sources.gguf.expert_architectures import EXPERT_ARCHITECTURES, mixtral
from edgekiln.sources.gguf.state_architectures import STATE_ARCHITECTURES

_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_PLUS_ONE = {r".*norm\.weight": layouts.minus_one}

# tensor_data_layout: the old converter's name for the layout that all files of the architecture have.
ARCHITECTURES = {
    "llama": Architecture(
        "llama",
        {**DENSE, **KV_HEADS},
        neutral={"tensor_data_layout": ("Meta AI original pth", "reference")},
        layouts=PERMUTED,
        read=mixtral,
    ),
    "qwen2": Architecture("qwen2", {**DENSE, **KV_HEADS}, fixed={"use_sliding_window": False}, head_dim=False),
    "qwen2moe": Architecture(
        "qwen2_moe",
        {
            **DENSE,
            **KV_HEADS,
            **_EXPERTS,
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        fixed={"use_sliding_window": False, "norm_topk_prob": False, "decoder_sparse_step": 1},
        neutral={"expert_gating_func": (0, 1), "expert_shared_count": None},
        head_dim=False,
        layouts={r"ffn_gate_inp_shexp\.weight": layouts.row},
    ),
    "qwen3": Architecture("qwen3", {**DENSE, **KV_HEADS}, fixed={"use_sliding_window": False}),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {**DENSE, **KV_HEADS, **_EXPERTS},
        fixed={"use_sliding_window": False, "norm_topk_prob": True, "decoder_sparse_step": 1},
        neutral={"expert_gating_func": (0, 1), "expert_weights_norm": (True,)},
    ),
    "phi3": Architecture("phi3", {**DENSE, **KV_HEADS}, partial_rotary=True, head_dim=False),
    "gemma2": Architecture("gemma2", {**DENSE, **KV_HEADS}, layouts=_PLUS_ONE),
    "gemma3": Architecture("gemma3_text", {**DENSE, **KV_HEADS}, layouts=_PLUS_ONE),
    "starcoder2": Architecture(
        "starcoder2",
        {**DENSE, **KV_HEADS},
        epsilon=(LAYER_EPSILON, "norm_epsilon"),
        fixed={"sliding_window": None, "use_bias": True},
        head_dim=False,
    ),
    "stablelm": Architecture(
        "stablelm",
        {**DENSE, **KV_HEADS},
        epsilon=(LAYER_EPSILON, "layer_norm_eps"),
        # The tensors say whether the residual is parallel, in llama.cpp too.
        neutral={"use_parallel_residual": None},
        partial_rotary=True,
        head_dim=False,
    ),
    "nemotron": Architecture(
        "nemotron",
        {**DENSE, **KV_HEADS},
        epsilon=(LAYER_EPSILON, "norm_eps"),
        partial_rotary=True,
        layouts=_PLUS_ONE,
    ),
    "falcon": Architecture(
        "falcon",
        {**DENSE, "attention.head_count_kv": "num_kv_heads", "feed_forward_length": "ffn_hidden_size"},
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
        layouts={r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight": layouts.transposed},
    ),
    **DENSE_ARCHITECTURES,
    **EXPERT_ARCHITECTURES,
    **STATE_ARCHITECTURES,
}
