"""Tiny configurations of model types, as data: the common small sizes, and what a type needs beyond them.

Sizes are small, but what an engine may compute wrongly is there: windows and chunks are smaller than the prompts,
experts are in groups, and every kind of layer occurs twice. Indexers of sparse attention choose all keys of the tests,
up to which number engines are exact.
"""

from typing import Any

VOCABULARY = 320

# Value of a field of any config class that has a field of that name.
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "input_embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "dense_intermediate_size"), 128),
    **dict.fromkeys(("ffn_dim", "dff", "dim_ff", "ffn_hidden_size", "decoder_ffn_dim", "encoder_ffn_dim"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "attention_head_size", "dim_head"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), 8),
    **dict.fromkeys(("attention_chunk_size", "local_attention_window_len"), 8),
    "local_attention": 16,
    "rotary_dim": 8,
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "moe_num_experts"), 4),
    "n_routed_experts": 8,
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "shared_experts_intermediate_size"), 32),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "router_hidden_size": 16,
    # Latent and sparse attention.
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_topk": 40,
    "index_n_heads": 16,
    "index_head_dim": 16,
    # State space models; the kernels of other packages need a GPU.
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 2),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "block_size"), 8),
    "mamba_d_ssm": 128,
    "use_mamba_kernels": False,
    # Linear attention.
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    # Jamba and zamba place attention and experts by period and offset.
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "vocab_size_per_layer_input": VOCABULARY,
}

# The same for the configs of vision and audio encoders, of which no part runs without an image or a recording.
ENCODER_COMMON: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("out_hidden_size", "vision_output_dim", "projector_input_dim", "projector_output_dim"), 64),
    "image_size": 32,
    "patch_size": 8,
}

# Values for config classes with latent attention (a field kv_lora_rank): keys and values have as many heads as queries,
# and `head_dim` is the size of the rotated part.
LATENT: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 8}

# Ids of the RoBERTa and BART families, in which positions begin after the id of padding.
_FIRST_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_HYBRID = ["linear_attention", "full_attention"] * 2
_INDEXER = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 40,
    "indexer_compress_ratio": 4,
}
# Logits are scaled by the position from position 8.
_INKLING2 = {
    "unpadded_vocab_size": VOCABULARY,
    "rel_extent": 16,
    "log_scaling_n_floor": 8,
    "n_layers_per_attn_res_block": 2,
}

# Model type -> values beyond the common sizes; a dictionary under the name of a config inside the config has the values
# of that config. To make a new type run, add a row.
ROWS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "bert-generation": {"is_decoder": True},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
    },
    "cohere_compass_text": {
        **_SLIDING,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]},
            "full_attention": None,
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 64, "moe_top_k": 2},
    },
    # The rates are smaller than the prompts, so that each kind of layer attends to compressed tokens.
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "o_groups": 2,
        "o_lora_rank": 16,
    },
    # Beyond this length the keys depend on their biases, and engines are refused.
    "doge": {"keep_window_size": 256},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1},
    "dots3_note": {
        "vision_config": {"mlp_layer_types": ["dense"] * 2, "adapter_in_dim": 32, "adapter_out_dim": 64},
        "audio_config": {"downsample_hidden_size": 8, "adapter_input_size": 32, "adapter_out_dim": 64},
    },
    # Layers with a sliding window have latent attention of other sizes.
    "dots3_note_text": {
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 24,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 16,
    },
    "emu3": {"vq_config": {"base_channels": 32}, "vocabulary_map": {"<image>": 300}},
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "gemma2": {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 30.0},
    # Each layer takes a part of a second embedding; later layers share the KV cache of earlier ones.
    "gemma3n_text": {
        "intermediate_size": [128] * 4,
        "hidden_size_per_layer_input": 16,
        "num_kv_shared_layers": 2,
    },
    "gemma4_text": {"global_head_dim": 32, "hidden_size_per_layer_input": 16},
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gpt_neox": {"partial_rotary_factor": 0.25},
    "granite": {"attention_multiplier": 0.2, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "inkling_text": {"rel_extent": 16},
    "inkling2_text": _INKLING2,
    "inkling2_loop_text": {
        **_INKLING2,
        "n_layers_per_attn_res_block": 1,
        "loop_layer_index_start": 1,
        "loop_layer_index_end": 3,
        "loop_num_passes": 2,
        "loop_gate_rank": 8,
    },
    "jetmoe": {"kv_channels": 16},
    "laguna": _SLIDING,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"num_layers": 2, "zero_expert_num": 4},
    "mamba2": {"num_heads": 8},
    "mellum": _SLIDING,
    "mimo_v2_flash": {"head_dim": 24},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "mlp_layer_types": ["dense", "sparse"] * 2,
        "index_n_heads": 2,
        "index_block_size": 4,
        "index_topk_blocks": 10,
    },
    "ministral": {**_SLIDING, "head_dim": 16},
    "mixtral": {"sliding_window": None},
    "moss_transcribe_diarize": {"text_config": {"model_type": "qwen3"}},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2},
    "phi3": {"sliding_window": None},
    "prophetnet": _FIRST_IDS,
    "qwen3": {"head_dim": 32},
    "qwen4_exp_text": {
        **_INDEXER,
        "hc_lowrank": 16,
        "ple_layer_ids": [1, 3],
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 64,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 1,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "is_decoder": True,
        "hidden_size": 64,
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh"] * 2,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "hash_seed": 0,
    },
    "smollm3": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "stablelm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True},
    "xglm": _FIRST_IDS,
    "xmod": {**_FIRST_IDS, "default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    **dict.fromkeys(
        ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"), _FIRST_IDS
    ),
}

# Types of transformers' mapping that do not continue a text, where their logits do not show it, and what they do.
NOT_DECODERS: dict[str, str] = {
    "gemma4_assistant": "drafts tokens from the hidden states and the KV cache of another model",
    "gemma4_unified_assistant": "drafts tokens from the hidden states and the KV cache of another model",
    "musicgen": "continues several streams of audio codes, not a text",
    "musicgen_melody": "continues several streams of audio codes, not a text",
}
