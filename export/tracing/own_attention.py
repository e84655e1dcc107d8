"""Attention of models that do not call a registered attention function; see `adapters`.

The functions replace methods: they take the module and the arguments of the method, and return what it returns, without
attention weights.
"""

import math
import sys
from typing import Any

import torch
from torch.nn.functional import softplus

from edgekiln.export.tracing.attention import MaskSpec, attend
from edgekiln.export.tracing.complex_rotation import rotate_pairs

_CAUSAL = MaskSpec()


def scaled_by_root(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None
) -> tuple[torch.Tensor, None]:
    """`_attn` of CodeGen and GPT-NeoX Japanese, query, key and value [B, H, S, D] to [B, H, S, D]."""
    out = attend(module, query, key, value, attention_mask, scale=query.shape[-1] ** -0.5)
    return out.transpose(1, 2), None


def gptj(
    module: Any,
    hidden_states: torch.Tensor,
    attention_mask: Any = None,
    position_ids: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """GPTJAttention.forward, [B, S, K] to [B, S, K]. Its own looks up angles in a copy of their table a sequence."""
    assert position_ids is not None
    query, key, value = (
        projection(hidden_states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    size = module.rotary_dim or module.embed_dim
    exponents = torch.arange(0, size, 2, dtype=torch.int64, device=position_ids.device)
    angles = position_ids.unsqueeze(-1).float() * (1.0 / (10000 ** (exponents / size)))
    query, key = (rotate_pairs(part, angles.cos(), angles.sin()) for part in (query, key))
    out = attend(module, query, key, value, attention_mask, scale=module.head_dim**-0.5)
    return module.out_proj(out.flatten(2)), None


def no_angles(_module: Any, *_: Any, **__: Any) -> None:
    """GPTJRotaryEmbedding.forward: `gptj` computes the angles."""


def gpt_neo(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None
) -> tuple[torch.Tensor, None]:
    """`_attn` of GPT-Neo: scores are not scaled, and local layers have a sliding window."""
    mask = MaskSpec(module.config.window_size) if module.attention_type == "local" else attention_mask
    return attend(module, query, key, value, mask, scale=1.0).transpose(1, 2), None


def openai_gpt(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: Any = None,
    _output_attentions: bool = False,
) -> list[torch.Tensor]:
    """`_attn` of the first GPT, whose keys are [B, H, D, S]."""
    scale = value.shape[-1] ** -0.5 if module.scale else 1.0
    return [attend(module, query, key.transpose(2, 3), value, _CAUSAL, scale=scale).transpose(1, 2)]


def falcon(
    module: Any,
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None,
    attention_mask: Any,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """FalconAttention.forward, [B, S, K] to [B, S, K].

    With ALiBi it is that of transformers' SDPA attention: its eager attention adds the biases twice.
    """
    query, key, value = _falcon_heads(module, module.query_key_value(hidden_states))
    slopes = None
    if alibi is not None:
        slopes = module.alibi_slopes
    elif position_embeddings is not None:
        rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
        query, key = rotate(query, key, *position_embeddings)
    scale = 1.0 / math.sqrt(module.head_dim)
    out = attend(
        module, query, key, value, attention_mask, scale=scale, slopes=slopes, bfloat16_alibi=slopes is not None
    )
    return module.dense(out.flatten(2)), None


def falcon_slopes(module: Any) -> None:
    """Keep the ALiBi slopes of a FalconAttention, if it has some, as a buffer [H]."""
    if module.config.alibi:
        build = sys.modules[type(module).__module__].build_alibi_tensor
        _keep_slopes(module, build(torch.ones(1, 2, dtype=torch.int64), module.num_heads, torch.float32)[:, 0, 1])


def _falcon_heads(module: Any, fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Query [B, H, S, D], key and value [B, KV, S, D] of the fused projections [B, S, ...], whose order varies."""
    if module.new_decoder_architecture or not module.multi_query:
        group = module.num_heads // module.num_kv_heads
        heads = fused.unflatten(2, (module.num_kv_heads, group + 2, module.head_dim))
        parts = heads[:, :, :, :-2].flatten(2, 3), heads[:, :, :, -2], heads[:, :, :, -1]
    else:
        heads = fused.unflatten(2, (module.num_heads + 2, module.head_dim))
        parts = heads[:, :, :-2], heads[:, :, -2:-1], heads[:, :, -1:]
    return tuple(part.transpose(1, 2) for part in parts)


def doge(
    module: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """DogeAttention.forward: values give each key a bias. Exact for at most `keep_window_size` keys, see `context`."""
    query, key, value = (
        projection(hidden_states).unflatten(-1, (-1, module.head_dim))
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    bias = torch.exp(module.A * softplus(module.dt_proj(value.flatten(2)))).transpose(1, 2)
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
    query, key = module.q_norm(query).transpose(1, 2), module.k_norm(key).transpose(1, 2)
    query, key = rotate(query, key, *position_embeddings)
    out = attend(module, query, key, value.transpose(1, 2), attention_mask, scale=module.scaling, key_bias=bias)
    return module.o_proj(out.flatten(2)), None


def bloom(
    module: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    alibi: torch.Tensor,
    attention_mask: Any,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """BloomAttention.forward, [B, S, K] to [B, S, K]."""
    query, key, value = module._reshape(module.query_key_value(hidden_states))
    out = attend(
        module,
        query,
        key,
        value,
        attention_mask,
        scale=module.inv_norm_factor,
        slopes=module.alibi_slopes,
    )
    return module.dense(out.flatten(2)) + residual, None


def bloom_slopes(module: Any) -> None:
    """Keep the ALiBi slopes of a BloomAttention as a buffer [H]."""
    build = sys.modules[type(module).__module__].build_alibi_tensor
    _keep_slopes(
        module, module.beta * build(torch.ones(1, 2, dtype=torch.int64), module.num_heads, torch.float32)[:, 0, 1]
    )


def mpt(
    module: Any, hidden_states: torch.Tensor, position_bias: torch.Tensor, attention_mask: Any = None, **_: Any
) -> tuple[torch.Tensor, None]:
    """MptAttention.forward, [B, S, K] to [B, S, K]; MptModel gives all its attentions ALiBi."""
    mixed = module.Wqkv(hidden_states)
    if module.clip_qkv:
        mixed = mixed.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    query, key, value = (
        part.unflatten(-1, (module.n_heads, module.head_dim)).transpose(1, 2) for part in mixed.chunk(3, dim=2)
    )
    out = attend(module, query, key, value, attention_mask, scale=module.softmax_scale, slopes=module.alibi_slopes)
    return module.out_proj(out.flatten(2)), None


def mpt_slopes(module: Any) -> None:
    """Keep the ALiBi slopes of an MptAttention as a buffer [H]."""
    build = sys.modules[type(module).__module__].build_mpt_alibi_tensor
    _keep_slopes(module, -build(module.n_heads, 2)[:, 0, 0])


def _keep_slopes(module: torch.nn.Module, slopes: torch.Tensor) -> None:
    module.register_buffer("alibi_slopes", slopes.contiguous(), persistent=False)


def hrm_text(module: Any, *args: Any, cycle_offset: int = 0, **kwargs: Any) -> Any:
    """HrmTextAttention.forward: a module runs several times, each time with a KV cache of its own."""
    index = module.layer_idx
    module.layer_idx = index + cycle_offset
    try:
        return type(module).forward(module, *args, **kwargs)
    finally:
        module.layer_idx = index


def bart_like(
    module: Any,
    hidden_states: torch.Tensor,
    key_value_states: torch.Tensor | None = None,
    cache: Any = None,
    attention_mask: Any = None,
    attn_prompt: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Forward of XGLMAttention, TrOCRAttention and MvpAttention for a decoder's own tokens, [B, S, K] to [B, S, K]."""
    assert key_value_states is None
    assert attn_prompt is None
    query, key, value = (
        projection(hidden_states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    out = attend(module, query, key, value, attention_mask, scale=module.scaling)
    return module.out_proj(out.flatten(2)), None


def git(module: Any, hidden_states: torch.Tensor, attention_mask: Any = None, *_: Any, **__: Any) -> Any:
    """GitSelfAttention.forward for text without an image, [B, S, K] to [B, S, K]."""
    query, key, value = (
        projection(hidden_states).unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2)
        for projection in (module.query, module.key, module.value)
    )
    out = attend(module, query, key, value, attention_mask, scale=module.attention_head_size**-0.5)
    return out.flatten(2), None


def git_model(module: Any, *args: Any, **kwargs: Any) -> Any:
    """GitModel.forward, whose mask lets the tokens of an image see each other: a text has none."""
    file: Any = sys.modules[type(module).__module__]
    causal_mask = file.create_causal_mask

    def of_text(*, block_sequence_ids: torch.Tensor, **mask: Any) -> MaskSpec:
        """The mask without the blocks of images."""
        spec: MaskSpec = causal_mask(**mask)
        return spec

    file.create_causal_mask = of_text
    try:
        return type(module).forward(module, *args, **kwargs)
    finally:
        file.create_causal_mask = causal_mask
