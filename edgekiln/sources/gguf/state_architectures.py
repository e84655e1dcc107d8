"""Architectures with layers that keep a state in place of keys and values: Mamba, short convolutions and hybrids."""

from typing import Any

from edgekiln.sources.gguf import layouts, state_fields
from edgekiln.sources.gguf.architecture import DENSE, RMS_EPSILON, Architecture
from edgekiln.sources.gguf.dense_architectures import GRANITE_SCALES, PERMUTED
from edgekiln.sources.gguf.expert_architectures import GRANITE_EXPERTS
from edgekiln.sources.gguf.layouts import Merge

_MAMBA_SIZES = {"block_count": "num_hidden_layers", "embedding_length": "hidden_size"}
_MAMBA = {
    r"ssm_conv1d\.weight": layouts.convolution,
    "ssm_a": layouts.log_decay,
}
_MAMBA2 = {
    r"ssm_conv1d\.weight": layouts.convolution,
    "ssm_a": layouts.log_decay_vector,
    "ssm_d": layouts.vector,
    r"ssm_norm\.weight": layouts.vector,
}
# Keys that Mamba's files have because llama.cpp wants them, and its arbitrary context length.
_UNUSED: dict[str, tuple[Any, ...] | None] = {
    "context_length": None,
    "feed_forward_length": (0,),
    "attention.head_count": (0,),
    "attention.head_count_kv": (0,),
    "ssm.dt_b_c_rms": (False,),
}


_GATED_DELTA = {
    **DENSE,
    "attention.head_count_kv": "num_key_value_heads",
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
}
_NEMOTRON_H = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.state_size": "ssm_state_size",
    "ssm.time_step_rank": "mamba_num_heads",
    "ssm.group_count": "n_groups",
}
# Nemotron-H's attention has no positions.
_NO_POSITIONS: dict[str, tuple[Any, ...] | None] = {"rope.freq_base": None, "rope.dimension_count": None}
_QWEN_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_QWEN_NEXT = {
    r"(?!ssm_).*norm\.weight": layouts.minus_one,
    r"ffn_gate_inp_shexp\.weight": layouts.row,
    r"ssm_conv1d\.weight": layouts.convolution,
    "ssm_a": layouts.log_decay,
}
_QWEN35 = {
    **_QWEN_NEXT,
    r"attn_qkv\.weight": layouts.last_value_heads,
    r"(attn_gate|ssm_alpha|ssm_beta)\.weight": layouts.value_heads,
    r"ssm_dt(\.bias)?": layouts.value_heads,
    r"ssm_out\.weight": layouts.value_head_columns,
    r"ssm_conv1d\.weight": layouts.value_head_convolution,
    "ssm_a": layouts.value_head_decay,
}

STATE_ARCHITECTURES = {
    "mamba": Architecture(
        "mamba",
        {
            **_MAMBA_SIZES,
            "ssm.conv_kernel": "conv_kernel",
            "ssm.inner_size": "intermediate_size",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "time_step_rank",
        },
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        neutral=_UNUSED,
        rope=False,
        attention=False,
        layouts=_MAMBA,
        read=state_fields.mamba,
    ),
    "mamba2": Architecture(
        "mamba2",
        {
            **_MAMBA_SIZES,
            "ssm.conv_kernel": "conv_kernel",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "num_heads",
        },
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        neutral=_UNUSED,
        rope=False,
        attention=False,
        layouts=_MAMBA2,
        read=state_fields.mamba2,
    ),
    "lfm2": Architecture(
        "lfm2",
        {**DENSE, "shortconv.l_cache": "conv_L_cache"},
        epsilon=(RMS_EPSILON, "norm_eps"),
        fixed={"block_auto_adjust_ff_dim": False},
        head_dim=False,
        layouts={r"shortconv\.conv\.weight": layouts.convolution},
        read=state_fields.lfm2,
    ),
    "lfm2moe": Architecture(
        "lfm2_moe",
        {
            **DENSE,
            "shortconv.l_cache": "conv_L_cache",
            "expert_count": "num_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        epsilon=(RMS_EPSILON, "norm_eps"),
        fixed={"norm_topk_prob": True, "routed_scaling_factor": 1.0},
        neutral={"expert_gating_func": (2,)},
        head_dim=False,
        layouts={r"shortconv\.conv\.weight": layouts.convolution},
        read=state_fields.lfm2_moe,
    ),
    "qwen3next": Architecture(
        "qwen3_next",
        {**_GATED_DELTA, **_QWEN_EXPERTS},
        fixed={"norm_topk_prob": True, "decoder_sparse_step": 1},
        neutral={"expert_gating_func": (0, 1)},
        partial_rotary=True,
        layouts=_QWEN_NEXT,
        merges={r"linear_attn\.in_proj_qkvz": Merge(("attn_qkv", "attn_gate"), layouts.linear_attention_heads)},
        read=state_fields.qwen3_next,
    ),
    # Text has one position in all sections of the rotary dimensions.
    "qwen35": Architecture(
        "qwen3_5_text",
        _GATED_DELTA,
        neutral={"rope.dimension_sections": None},
        partial_rotary=True,
        predictors=True,
        layouts=_QWEN35,
        read=state_fields.qwen3_next,
    ),
    "qwen35moe": Architecture(
        "qwen3_5_moe_text",
        {name: field for name, field in {**_GATED_DELTA, **_QWEN_EXPERTS}.items() if name != "feed_forward_length"},
        neutral={"rope.dimension_sections": None, "expert_gating_func": (0, 1), "feed_forward_length": None},
        partial_rotary=True,
        predictors=True,
        layouts=_QWEN35,
        read=state_fields.qwen3_next,
    ),
    "granitehybrid": Architecture(
        "granitemoehybrid",
        {
            **DENSE,
            "ssm.conv_kernel": "mamba_d_conv",
            "ssm.state_size": "mamba_d_state",
            "ssm.time_step_rank": "mamba_n_heads",
        },
        numbers=GRANITE_SCALES,
        neutral={"expert_gating_func": (0, 1)},
        head_dim=False,
        layouts={**PERMUTED, **_MAMBA2},
        merges={
            **GRANITE_EXPERTS,
            r"mlp\.input_linear": Merge(("ffn_gate", "ffn_up"), layouts.rows),
            r"mlp\.output_linear": Merge(("ffn_down",), layouts.rows),
        },
        read=state_fields.granite_hybrid,
    ),
    "falcon-h1": Architecture(
        "falcon_h1",
        {
            **DENSE,
            "attention.head_count_kv": "num_key_value_heads",
            "ssm.conv_kernel": "mamba_d_conv",
            "ssm.state_size": "mamba_d_state",
            "ssm.time_step_rank": "mamba_n_heads",
            "ssm.group_count": "mamba_n_groups",
            "ssm.inner_size": "mamba_d_ssm",
        },
        # The converter multiplies the weights by them.
        fixed={
            **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier", "key_multiplier"), 1.0),
            **dict.fromkeys(("ssm_in_multiplier", "ssm_out_multiplier"), 1.0),
            **dict.fromkeys(("embedding_multiplier", "lm_head_multiplier"), 1.0),
            "mlp_multipliers": [1.0, 1.0],
            "ssm_multipliers": [1.0] * 5,
        },
        layouts=_MAMBA2,
        read=state_fields.falcon_h1,
    ),
    "nemotron_h": Architecture(
        "nemotron_h",
        _NEMOTRON_H,
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        neutral=_NO_POSITIONS,
        rope=False,
        layouts=_MAMBA2,
        read=state_fields.nemotron_h,
    ),
    "nemotron_h_moe": Architecture(
        "nemotron_h",
        {
            **_NEMOTRON_H,
            "expert_count": "n_routed_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_feed_forward_length": "moe_shared_expert_intermediate_size",
            "expert_shared_count": "n_shared_experts",
        },
        epsilon=(RMS_EPSILON, "layer_norm_epsilon"),
        neutral={**_NO_POSITIONS, "expert_gating_func": (0, 2)},
        rope=False,
        layouts=_MAMBA2,
        merges={
            r"mixer\.experts\.up_proj": Merge(("ffn_up_exps",), layouts.rows),
            r"mixer\.experts\.down_proj": Merge(("ffn_down_exps",), layouts.rows),
        },
        read=state_fields.nemotron_h,
    ),
    "jamba": Architecture(
        "jamba",
        {
            **DENSE,
            "expert_count": "num_experts",
            "expert_used_count": "num_experts_per_tok",
            "ssm.conv_kernel": "mamba_d_conv",
            "ssm.state_size": "mamba_d_state",
            "ssm.time_step_rank": "mamba_dt_rank",
        },
        rope=False,
        head_dim=False,
        layouts=_MAMBA,
        read=state_fields.jamba,
    ),
}
