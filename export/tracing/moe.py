"""Trace MoE blocks densely: every expert computes every token, scaled by its router weight, which is often zero.

Few runtimes run graphs with data-dependent shapes; the dense form is correct on all of them. As for attention,
transformers calls an experts function that is registered by name.
"""

from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

IMPLEMENTATION = "edgekiln"


def _dense_experts(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Sum of the outputs of all experts, weighted by the router.

    Args:
        self: the experts module, with stacked weights [E, out, in] (or [E, in, out] when `is_transposed`).
        hidden_states: [T, K].
        top_k_index: int64 [T, k], the experts of each token.
        top_k_weights: [T, k], their router weights.

    Returns:
        [T, K].
    """
    experts = torch.arange(self.num_experts, device=hidden_states.device)
    chosen = top_k_index.unsqueeze(-1) == experts
    weights = (top_k_weights.unsqueeze(-1) * chosen).sum(dim=1)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = getattr(self, name)
        x = torch.matmul(x, weight if self.is_transposed else weight.transpose(1, 2))
        return x + getattr(self, f"{name}_bias").unsqueeze(1) if self.has_bias else x

    x = hidden_states.unsqueeze(0)
    x = self._apply_gate(linear(x, "gate_up_proj")) if self.has_gate else self.act_fn(linear(x, "up_proj"))
    return (linear(x, "down_proj") * weights.t().unsqueeze(-1)).sum(dim=0)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _dense_experts)
