"""Trace mixtures of experts as `edgekiln::ExpertMatMul`, one a projection.

As for attention, transformers calls an experts function that is registered by name. It gets the experts that the router
chose, so that routers of every kind are traced as they are.
"""

from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from edgekiln.export import canonical
from edgekiln.export.tracing.quantized_modules import QuantizedParameters

IMPLEMENTATION = "edgekiln"


def multiply(
    x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor | QuantizedParameters, transposed: bool = False
) -> torch.Tensor:
    """Each token times the weights of its experts.

    Args:
        x: [T, 1 or k, K].
        index: int64[T, k], the experts of each token.
        weight: [E, N, K], or [E, K, N] if `transposed`; or what has been put in place of such a parameter.
        transposed: of a weight in floating point.

    Returns:
        [T, k, N].
    """
    if isinstance(weight, QuantizedParameters):
        return weight.of_experts(x, index)
    weight = weight.transpose(1, 2) if transposed else weight
    if x.is_meta:  # a forward without values, from which `layer_caches` reads the caches
        return x.new_empty((*index.shape, weight.shape[1]))
    return canonical.expert_matmul(x, index, weight)


def weighted_sum(outputs: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """The sum of the outputs [T, k, N] of the experts of each token, weighted by its gates [T, k]: [T, N]."""
    return (outputs * gates.unsqueeze(-1)).sum(dim=1)


def _experts(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The forward of a module that transformers marks with `use_experts_implementation`.

    Args:
        self: the experts module, with stacked weights [E, out, in] (or [E, in, out] when `is_transposed`).
        hidden_states: [T, K].
        top_k_index: int64 [T, k], the experts of each token.
        top_k_weights: [T, k], their router weights.

    Returns:
        [T, K].
    """

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        y = multiply(x, top_k_index, getattr(self, name), self.is_transposed)
        return y + getattr(self, f"{name}_bias")[top_k_index] if self.has_bias else y

    x = hidden_states.unsqueeze(1)
    x = self._apply_gate(linear(x, "gate_up_proj")) if self.has_gate else self.act_fn(linear(x, "up_proj"))
    x = linear(x, "down_proj")
    # Before transformers 5.24 no experts have a norm.
    if getattr(self, "has_post_expert_norm", False):
        x = self.post_expert_norm(x)
    return weighted_sum(x, top_k_weights)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts)
