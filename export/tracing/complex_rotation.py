"""Attention of Llama 4 and DeepSeek V2, which rotate by complex numbers, of which torch.export makes no graph.

The angles go from the rotary module to the attention as real numbers: cosines and sines [2, B, S, R / 2].
"""

from typing import Any

import torch

from edgekiln.export.tracing.attention import attend
from edgekiln.export.tracing.cache_trace import current


def angles(module: Any, _hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """The forward of their rotary modules: cosines and sines [2, B, S, R / 2]."""
    phases = position_ids[:, :, None].float() * module.inv_freq.float()
    return torch.stack([phases.cos(), phases.sin()]) * module.attention_scaling


def rotate_pairs(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (0, 1), (2, 3), ... of x [B, H, S, D] by angles [B, S, R / 2], R at most D.

    In plain ops: TensorRT-RTX 1.7 does not compile an interleaved RotaryEmbedding over a growing cache.
    """
    cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    rotated = 2 * cosine.shape[-1]
    first, second = x[..., 0:rotated:2], x[..., 1:rotated:2]
    pairs = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(3)
    return torch.cat([pairs, x[..., rotated:]], dim=-1) if rotated < x.shape[-1] else pairs


def llama4(
    module: Any, hidden_states: torch.Tensor, position_embeddings: torch.Tensor, attention_mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """Llama4TextAttention.forward, [B, S, K] to [B, S, K].

    The temperature of layers without rotary embedding grows with the position. That of transformers counts left padding
    as well, so that a padded sequence of more than `floor_scale` tokens differs there.
    """
    query, key, value = (
        projection(hidden_states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    if module.use_rope:
        query, key = (rotate_pairs(part, position_embeddings[0], position_embeddings[1]) for part in (query, key))
    if hasattr(module, "qk_norm"):
        query, key = module.qk_norm(query), module.qk_norm(key)
    positions = current().position_ids
    if module.attn_temperature_tuning and not module.use_rope and positions is not None:
        temperature = torch.log1p(torch.floor((positions.float() + 1.0) / module.floor_scale)) * module.attn_scale + 1.0
        query = query * temperature[:, None, :, None]
    out = attend(module, query, key, value, attention_mask, scale=module.scaling)
    return module.o_proj(out.flatten(2)), None


def deepseek_v2(
    module: Any,
    hidden_states: torch.Tensor,
    attention_mask: Any = None,
    position_embeddings: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """DeepseekV2Attention.forward, [B, S, K] to [B, S, K]."""
    assert position_embeddings is not None
    if module.q_lora_rank is None:
        query = module.q_proj(hidden_states)
    else:
        query = module.q_b_proj(module.q_a_layernorm(module.q_a_proj(hidden_states)))
    query = query.unflatten(-1, (-1, module.qk_head_dim)).transpose(1, 2)
    plain, rotated = query.split([module.qk_nope_head_dim, module.qk_rope_head_dim], dim=-1)
    latent, key = module.kv_a_proj_with_mqa(hidden_states).split([module.kv_lora_rank, module.qk_rope_head_dim], dim=-1)
    rotated, key = (
        rotate_pairs(part, position_embeddings[0], position_embeddings[1]) for part in (rotated, key.unsqueeze(1))
    )
    key, value = module.expand_kv(module.kv_a_layernorm(latent).unsqueeze(1), key)
    query = torch.cat([plain, rotated], dim=-1)
    out = attend(module, query, key, value, attention_mask, scale=module.scaling)
    return module.o_proj(out.flatten(2)), None
