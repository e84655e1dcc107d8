"""Architectures beyond those that transformers itself reads from GGUF: logits survive the way through a file.

`support.gguf_conversion` writes the tensors as llama.cpp's converter does; the metadata here is what it writes as well.
"""

import copy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.resolve import resolve
from support.gguf_conversion import converted
from support.gguf_files import TOKENS, add

VOCAB, HIDDEN, HEADS, KV_HEADS, INNER, LAYERS, POSITIONS = len(TOKENS), 64, 4, 2, 96, 4, 128
ROPE = {"rope_type": "default", "rope_theta": 50000.0}
HALF = {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 50000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}
RMS, LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
FIELDS = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
    "rope_parameters": ROPE,
    "rms_norm_eps": 0.03,
    **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"]),
}
METADATA = {
    "context_length": POSITIONS,
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "rope.freq_base": 50000.0,
    "vocab_size": VOCAB,
    RMS: 0.03,
}
NO_ROPE = {"rope.freq_base": None}
NORM = {"layer_norm_eps": 0.03, "layer_norm_epsilon": 0.03}
LAYER_NORM = {LAYER: 0.03, RMS: None}
WIDE = {"attention.key_length": 32, "attention.value_length": 32}
SCALES = {
    "attention_multiplier": 0.4,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.5,
}
GRANITE = {"attention.scale": 0.4, "embedding_scale": 3.0, "residual_scale": 0.6, "logit_scale": 2.5}
EXPERTS = {"expert_count": 4, "expert_used_count": 2}
SLIDING = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
GPT2 = {"n_embd": HIDDEN, "n_inner": INNER, "n_head": HEADS, "n_layer": LAYERS, "n_positions": POSITIONS}
SIGMOID = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "head_dim": 16,
}
SIGMOID_KEYS = {
    **EXPERTS,
    "expert_feed_forward_length": 32,
    "expert_shared_count": 1,
    "leading_dense_block_count": 1,
    "expert_weights_scale": 1.7,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
    "attention.key_length": 16,
    "attention.value_length": 16,
}
MAMBA_KEYS = {
    "feed_forward_length": 0,
    "attention.head_count": 0,
    "attention.head_count_kv": None,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 2 * HIDDEN,
    "ssm.state_size": 8,
    "context_length": 2**20,
    **NO_ROPE,
}
HYBRID = ["mamba", "attention", "mamba", "attention"]
GRANITE_HYBRID = {
    **SCALES,
    "layer_types": HYBRID,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
GRANITE_HYBRID_KEYS = {
    **GRANITE,
    "attention.head_count_kv": [0, KV_HEADS, 0, KV_HEADS],
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 1,
    "ssm.inner_size": 2 * HIDDEN,
    "ssm.time_step_rank": 8,
    "rope.scaling.finetuned": False,
}
DELTA = {
    "head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    **HALF,
}
DELTA_KEYS = {
    **WIDE,
    "rope.dimension_count": 16,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 64,
    "full_attention_interval": 4,
}
QWEN_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
QWEN_EXPERT_KEYS = {**EXPERTS, "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 48}
# Case -> architecture, model type, fields of the configuration beyond FIELDS, and keys beyond METADATA.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mixtral": ("llama", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}, EXPERTS | WIDE),
    "llama with biases": ("llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "mistral3": ("mistral3", "mistral", {"head_dim": 32, "sliding_window": None}, WIDE),
    "ministral3": (
        "mistral3",
        "ministral3",
        {
            "head_dim": 32,
            "sliding_window": None,
            # Positions beyond the original length, which is shorter than the prompt here, scale the query.
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 8,
                "mscale": 1.0,
                "mscale_all_dim": 0.8,
                "llama_4_scaling_beta": 0.3,
            },
        },
        {
            **WIDE,
            **YARN_KEYS,
            "rope.scaling.original_context_length": 8,
            "rope.scaling.yarn_log_multiplier": 0.8,
            "attention.temperature_scale": 0.3,
        },
    ),
    "gemma": ("gemma", "gemma", {"head_dim": 32, "tie_word_embeddings": True}, WIDE),
    "phi2": ("phi2", "phi", {**NORM, **HALF}, {**LAYER_NORM, "rope.dimension_count": 8}),
    "olmo": ("olmo", "olmo", {"clip_qkv": 0.5}, {LAYER: 1e-5, RMS: None, "attention.clamp_kqv": 0.5}),
    "olmo2": ("olmo2", "olmo2", {}, {}),
    "olmo3": (
        "olmo2",
        "olmo3",
        {
            "sliding_window": 5,
            "layer_types": SLIDING,
            "rope_parameters": {"full_attention": YARN, "sliding_attention": ROPE},
        },
        {
            "attention.sliding_window": 5,
            "attention.sliding_window_pattern": [True, True, True, False],
            **YARN_KEYS,
        },
    ),
    "seed_oss": ("seed_oss", "seed_oss", {"head_dim": 32, "attention_bias": True}, WIDE),
    "arcee": ("arcee", "arcee", {}, {}),
    "smollm3": ("smollm3", "smollm3", {}, {}),
    "ernie4_5": ("ernie4_5", "ernie4_5", {"head_dim": 32}, WIDE),
    "glm4": ("glm4", "glm4", {"head_dim": 16, "attention_bias": True, **HALF}, {"rope.dimension_count": 8}),
    "glm": ("chatglm", "glm", {"head_dim": 16, "attention_bias": False, **HALF}, {"rope.dimension_count": 8}),
    "granite": ("granite", "granite", SCALES, GRANITE),
    "granite without scales": ("granite", "granite", {"attention_multiplier": 0.25}, {}),
    "exaone": ("exaone", "llama", {}, {"rope.dimension_count": 16}),
    "internlm2": ("internlm2", "llama", {}, {}),
    "xverse": ("xverse", "llama", {}, {}),
    "baichuan": ("baichuan", "llama", {}, {}),
    "exaone4": (
        "exaone4",
        "exaone4",
        {"head_dim": 16, "sliding_window": None, "layer_types": ["full_attention"] * 4},
        {},
    ),
    "exaone4 with windows": (
        "exaone4",
        "exaone4",
        {"head_dim": 16, "sliding_window": 5, "layer_types": SLIDING},
        {"attention.sliding_window": 5, "attention.sliding_window_pattern": [True, True, True, False]},
    ),
    "command-r": (
        "command-r",
        "cohere",
        {**NORM, "logit_scale": 0.3, "use_qk_norm": True, "tie_word_embeddings": True},
        {**LAYER_NORM, "logit_scale": 0.3, "rope.scaling.type": "none"},
    ),
    "cohere2": (
        "cohere2",
        "cohere2",
        {**NORM, "logit_scale": 0.3, "sliding_window": 5, "layer_types": SLIDING, "tie_word_embeddings": True},
        {**LAYER_NORM, "logit_scale": 0.3, "attention.sliding_window": 5, "rope.scaling.type": "none"},
    ),
    "gptneox": (
        "gptneox",
        "gpt_neox",
        {**NORM, **HALF, "use_parallel_residual": True},
        {**LAYER_NORM, "rope.dimension_count": 8, "use_parallel_residual": True, "attention.head_count_kv": None},
    ),
    "gptneox in sequence": (
        "gptneox",
        "gpt_neox",
        {**NORM, **HALF, "use_parallel_residual": False},
        {**LAYER_NORM, "rope.dimension_count": 8, "use_parallel_residual": False, "attention.head_count_kv": None},
    ),
    "bloom": (
        "bloom",
        "bloom",
        {**NORM, "n_layer": LAYERS, "n_head": HEADS, "tie_word_embeddings": True},
        {**LAYER_NORM, **NO_ROPE, "feed_forward_length": 4 * HIDDEN, "attention.head_count_kv": HEADS},
    ),
    "mpt": (
        "mpt",
        "mpt",
        {
            **NORM,
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "max_seq_len": POSITIONS,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": 0.5},
            "tie_word_embeddings": True,
        },
        {
            **LAYER_NORM,
            **NO_ROPE,
            "feed_forward_length": 4 * HIDDEN,
            "attention.head_count_kv": None,
            "attention.max_alibi_bias": 8.0,
            "attention.clamp_kqv": 0.5,
        },
    ),
    "starcoder": (
        "starcoder",
        "gpt_bigcode",
        {**NORM, **GPT2, "multi_query": True, "tie_word_embeddings": True},
        {**LAYER_NORM, **NO_ROPE, "attention.head_count_kv": 1},
    ),
    "qwen2vl": ("qwen2vl", "qwen2", {}, {"rope.dimension_sections": [2, 3, 3, 0]}),
    "qwen3vl": (
        "qwen3vl",
        "qwen3",
        {"head_dim": 32},
        {**WIDE, "rope.dimension_sections": [4, 6, 6, 0], "n_deepstack_layers": 3},
    ),
    "olmoe": (
        "olmoe",
        "olmoe",
        {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False},
        EXPERTS,
    ),
    "granitemoe": (
        "granitemoe",
        "granitemoe",
        {**SCALES, "num_local_experts": 4, "num_experts_per_tok": 2},
        GRANITE | EXPERTS,
    ),
    "granitemoeshared": (
        "granitemoe",
        "granitemoeshared",
        {**SCALES, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
        {**GRANITE, **EXPERTS, "expert_shared_feed_forward_length": 48},
    ),
    "gpt-oss": (
        "gpt-oss",
        "gpt_oss",
        {
            "head_dim": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {**YARN, "truncate": False},
        },
        {
            **WIDE,
            **EXPERTS,
            "expert_feed_forward_length": INNER,
            "attention.sliding_window": 5,
            **YARN_KEYS,
        },
    ),
    "glm4moe": (
        "glm4moe",
        "glm4_moe",
        {**SIGMOID, **HALF, "attention_bias": True, "use_qk_norm": True},
        {**SIGMOID_KEYS, "rope.dimension_count": 8},
    ),
    "dots1": (
        "dots1",
        "dots1",
        {**SIGMOID, "sliding_window": None, "layer_types": ["full_attention"] * 4},
        SIGMOID_KEYS,
    ),
    "qwen3vlmoe": (
        "qwen3vlmoe",
        "qwen3_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "head_dim": 32,
        },
        {**WIDE, **EXPERTS, "expert_feed_forward_length": 32, "rope.dimension_sections": [4, 6, 6, 0]},
    ),
    **{
        f"deepseek {version}": (
            "deepseek2",
            f"deepseek_{version}",
            {
                **SIGMOID,
                "norm_topk_prob": version == "v3",
                "num_key_value_heads": HEADS,
                "head_dim": 8,
                "kv_lora_rank": 16,
                "q_lora_rank": 24 if version == "v3" else None,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 12,
                "v_head_dim": 20,
                "topk_method": "greedy",
                "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
            },
            {
                **SIGMOID_KEYS,
                **YARN_KEYS,
                "attention.head_count_kv": 1,
                "attention.kv_lora_rank": 16,
                "attention.q_lora_rank": 24 if version == "v3" else None,
                "attention.key_length": 24,
                "attention.value_length": 16,
                "attention.key_length_mla": 20,
                "attention.value_length_mla": 20,
                "rope.dimension_count": 8,
                "rope.scaling.yarn_log_multiplier": 0.07,
                "expert_gating_func": 2 if version == "v3" else 1,
                "expert_weights_norm": True if version == "v3" else None,
            },
        )
        for version in ("v2", "v3")
    },
    "minimax-m2": (
        "minimax-m2",
        "minimax_m2",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, **HALF},
        {
            **WIDE,
            **EXPERTS,
            "expert_feed_forward_length": INNER,
            "expert_gating_func": 2,
            "rope.dimension_count": 16,
        },
    ),
    "ernie4_5-moe": (
        "ernie4_5-moe",
        "ernie4_5_moe",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": -1,
            "moe_layer_interval": 1,
        },
        {
            **EXPERTS,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": 1,
            "expert_feed_forward_length": 32,
            "expert_shared_count": 1,
            "expert_shared_feed_forward_length": INNER // KV_HEADS,
        },
    ),
    "hunyuan-dense": (
        "hunyuan-dense",
        "hunyuan_v1_dense",
        {"head_dim": 32},
        {**WIDE, "rope.scaling.type": "none", "rope.scaling.factor": 1.0},
    ),
    "lfm2moe": (
        "lfm2moe",
        "lfm2_moe",
        {
            "norm_eps": 0.03,
            "conv_L_cache": 3,
            "layer_types": ["conv", "full_attention"] * 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "num_dense_layers": 1,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
        {
            **EXPERTS,
            "expert_feed_forward_length": 32,
            "expert_gating_func": 2,
            "leading_dense_block_count": 1,
            "shortconv.l_cache": 3,
            "attention.head_count_kv": [0, KV_HEADS, 0, KV_HEADS],
        },
    ),
    "qwen3next": (
        "qwen3next",
        "qwen3_next",
        {**DELTA, **QWEN_EXPERTS, "norm_topk_prob": True, "decoder_sparse_step": 1},
        {**DELTA_KEYS, **QWEN_EXPERT_KEYS},
    ),
    "qwen35": ("qwen35", "qwen3_5_text", DELTA, {**DELTA_KEYS, "rope.dimension_sections": [3, 3, 2, 0]}),
    "qwen35moe": (
        "qwen35moe",
        "qwen3_5_moe_text",
        {**DELTA, **QWEN_EXPERTS},
        {**DELTA_KEYS, **QWEN_EXPERT_KEYS, "rope.dimension_sections": [3, 3, 2, 0]},
    ),
    "mamba": (
        "mamba",
        "mamba",
        {**NORM, "intermediate_size": 2 * HIDDEN, "state_size": 8, "conv_kernel": 4, "time_step_rank": 4},
        {**MAMBA_KEYS, "ssm.time_step_rank": 4, "ssm.dt_b_c_rms": False},
    ),
    "mamba2": (
        "mamba2",
        "mamba2",
        {**NORM, "num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "conv_kernel": 4, "chunk_size": 8},
        {**MAMBA_KEYS, "ssm.time_step_rank": 8, "ssm.group_count": 1},
    ),
    "lfm2": (
        "lfm2",
        "lfm2",
        {
            "norm_eps": 0.03,
            "conv_L_cache": 3,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, KV_HEADS, 0, KV_HEADS]},
    ),
    "granitehybrid": (
        "granitehybrid",
        "granitemoehybrid",
        {
            **GRANITE_HYBRID,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 48,
            "position_embedding_type": "nope",
        },
        {**GRANITE_HYBRID_KEYS, **EXPERTS, "expert_shared_feed_forward_length": 48},
    ),
    "granitehybrid without experts": (
        "granitehybrid",
        "granitemoehybrid",
        {
            **GRANITE_HYBRID,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": INNER,
            "position_embedding_type": "rope",
        },
        {**GRANITE_HYBRID_KEYS, "rope.scaling.finetuned": True, "expert_shared_feed_forward_length": INNER},
    ),
    "falcon-h1": (
        "falcon-h1",
        "falcon_h1",
        {
            "head_dim": 32,
            "mamba_d_ssm": 128,
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_n_groups": 2,
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_chunk_size": 8,
            "mamba_rms_norm": True,
            "attention_in_multiplier": 0.7,
            "attention_out_multiplier": 0.8,
            "key_multiplier": 0.6,
            "ssm_in_multiplier": 1.3,
            "ssm_out_multiplier": 0.9,
            "embedding_multiplier": 1.5,
            "lm_head_multiplier": 0.5,
            "mlp_multipliers": [0.8, 1.2],
            "ssm_multipliers": [0.7, 0.8, 0.9, 1.1, 1.2],
        },
        {
            **WIDE,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 128,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 8,
            "ssm.group_count": 2,
        },
    ),
    "nemotron_h": (
        "nemotron_h",
        "nemotron_h",
        {
            "num_hidden_layers": None,
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
            "layer_norm_epsilon": 0.03,
            "head_dim": 32,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "ssm_state_size": 8,
            "conv_kernel": 4,
            "chunk_size": 8,
            "use_mamba_kernels": False,
        },
        {
            **WIDE,
            **NO_ROPE,
            "feed_forward_length": [0, INNER, 0, INNER],
            "attention.head_count_kv": [0, 0, KV_HEADS, 0],
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 128,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 8,
            "ssm.group_count": 2,
            "rope.scaling.finetuned": False,
        },
    ),
    "jamba": (
        "jamba",
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 0,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        {
            **NO_ROPE,
            **EXPERTS,
            "attention.head_count_kv": [0, KV_HEADS, 0, KV_HEADS],
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 2 * HIDDEN,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
        },
    ),
}


def random_model(model_type: str, fields: dict[str, Any]) -> PreTrainedModel:
    # Configurations change the dictionaries that they get.
    config = AutoConfig.for_model(
        model_type,
        **copy.deepcopy(
            {name: value for name, value in {**FIELDS, **fields}.items() if name != "num_hidden_layers" or value}
        ),
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Vectors stay near what they are at first: decay rates and norms of any sign make no model.
            if parameter.dim() > 1 and not (parameter == parameter[:1]).all():
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write_model(
    path: Path, architecture: str, model: PreTrainedModel, metadata: dict[str, Any], **more: np.ndarray
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**METADATA, **metadata}.items():
        if value is not None:
            add(writer, f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["h e"])
    tied = set(model.all_tied_weights_keys)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name not in tied}
    for name, tensor in {**converted(architecture, state, model.config), **more}.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(1, 25)[None], use_cache=False).logits


@pytest.mark.parametrize("case", CASES)
def test_logits_survive(tmp_path: Path, case: str) -> None:
    architecture, model_type, fields, metadata = CASES[case]
    model = random_model(model_type, fields)
    source = resolve(str(write_model(tmp_path / "m.gguf", architecture, model, metadata)))
    assert source.config.model_type == model_type
    read = AutoModelForCausalLM.from_config(source.config, attn_implementation="eager").eval()
    names = set(source.weights.keys())
    read.load_state_dict({name: source.weights.read(name) for name in names}, strict=False)
    assert set(read.state_dict()) - names <= set(read.all_tied_weights_keys)
    expected = logits_of(model)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits_of(read), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    architecture, model_type, fields, metadata = CASES["glm4moe"]
    model = random_model(model_type, fields)
    keys = {**metadata, "block_count": LAYERS + 1, "nextn_predict_layers": 1}
    more = {f"blk.{LAYERS}.nextn.eh_proj.weight": np.zeros((HIDDEN, 2 * HIDDEN), np.float32)}
    source = resolve(str(write_model(tmp_path / "m.gguf", architecture, model, keys, **more)))
    assert source.config.num_hidden_layers == LAYERS
    assert set(source.weights.keys()) == set(model.state_dict())


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("mamba2", {"ssm.group_count": 2}, "ssm.group_count = 2 .*normalizes all groups"),
        ("mamba", {"ssm.dt_b_c_rms": True}, "ssm.dt_b_c_rms = True"),
        ("baichuan", {"attention.max_alibi_bias": 8.0}, "max_alibi_bias = 8.0"),
        ("granite", {"rope.scaling.finetuned": False}, "rope.scaling.finetuned = False"),
        ("mpt", {"attention.max_alibi_bias": 0.0}, "MPT of transformers has ALiBi"),
        ("bloom", {"feed_forward_length": 96}, "feed_forward_length = 96"),
        ("lfm2", {"attention.head_count_kv": [0, 1, 0, 2]}, "it differs between layers with attention"),
        ("olmo", {LAYER: 1e-6}, "OLMo of transformers has 1e-05"),
        ("dots1", {"expert_gating_func": 1}, "sigmoid"),
        ("starcoder", {"attention.head_count_kv": HEADS}, "StarCoder without multi-query attention"),
    ],
)
def test_what_a_row_cannot_express_is_refused(tmp_path: Path, case: str, changes: dict[str, Any], message: str) -> None:
    architecture, model_type, fields, metadata = CASES[case]
    path = write_model(tmp_path / "m.gguf", architecture, random_model(model_type, fields), {**metadata, **changes})
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        resolve(str(path))
    assert "\n" not in str(caught.value)
