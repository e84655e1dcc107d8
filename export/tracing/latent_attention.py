"""Multi-head latent attention (DeepSeek V2) over its compressed KV cache.

Keys and values of all heads are projections of one latent vector a token, so that the cache holds the latent vectors:
the up-projection of keys is applied to the query, and that of values to the output. With rank r and R rotated elements
a token takes 2 · (r + R) elements, in place of 2 · H · (nope + R).
"""

from typing import Any

import torch


class LatentProjection(torch.nn.Module):
    """The up-projections of keys and values, in place of the linear layer `kv_b_proj`; not quantized.

    Attributes:
        weight: [H · (nope + V), r], as in the checkpoint.
        heads, nope: H; elements of a key that are not rotated.
    """

    def __init__(self, linear: torch.nn.Linear, heads: int, nope: int) -> None:
        super().__init__()
        self.weight = linear.weight
        self.heads, self.nope = heads, nope

    def latent_query(self, query: torch.Tensor) -> torch.Tensor:
        """[B, H, S, nope + R] to [B, H, S, r + R]."""
        of_keys = self.weight.unflatten(0, (self.heads, -1))[:, : self.nope]
        plain, rotated = query[..., : self.nope], query[..., self.nope :]
        return torch.cat([torch.matmul(plain, of_keys), rotated], dim=-1)

    def value_of(self, latent: torch.Tensor) -> torch.Tensor:
        """Attended latents [B, S, H, r] to values [B, S, H, V]."""
        of_values = self.weight.unflatten(0, (self.heads, -1))[:, self.nope :]
        return torch.matmul(latent.transpose(1, 2), of_values.transpose(1, 2)).transpose(1, 2)


def keep_latent(module: Any) -> None:
    """Replace the `kv_b_proj` of an attention module if its compressed cache is the smaller one."""
    rotated, nope = module.qk_rope_head_dim, module.qk_nope_head_dim
    if module.kv_lora_rank + rotated < module.num_heads * (nope + rotated):
        module.kv_b_proj = LatentProjection(module.kv_b_proj, module.num_heads, nope)


def expand_kv(module: Any, latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The `expand_kv` of attention modules: keys and values of each head, or of one head, as `keep_latent` decided.

    Args:
        module: the attention module.
        latent: [B, 1, S, r].
        rotated: [B, 1, S, R], the part of keys that heads share.

    Returns:
        Key [B, 1, S, r + R] and value [B, 1, S, r], for queries of `LatentProjection.latent_query`.
    """
    if not isinstance(module.kv_b_proj, LatentProjection):
        key, value = type(module).expand_kv(module, latent, rotated)
        return key, value
    return torch.cat([latent, rotated], dim=-1), latent
