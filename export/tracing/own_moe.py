"""Dense forms of expert blocks that transformers computes in modules of their own, not through `moe`.

Their modules sort tokens by expert, which gives tensors of data-dependent shapes. Here every expert computes every
token, as in `moe`.
"""

from typing import Any

import torch
from torch.nn.functional import silu


def aria(module: Any, hidden_states: torch.Tensor, router_logits: torch.Tensor) -> torch.Tensor:
    """AriaExperts.forward before transformers 5.24.

    Args:
        module: its fc1 has weights [E, K, 2 · I], up projection first, and its fc2 [E, I, K].
        hidden_states: [T, K].
        router_logits: [T, E].

    Returns:
        [T, K].
    """
    index, gates = module.route_tokens_to_experts(router_logits)
    up, gate = torch.matmul(hidden_states.unsqueeze(0), module.fc1.weight).chunk(2, dim=-1)
    out = torch.matmul(silu(up) * gate, module.fc2.weight)
    return (out * _expert_weights(index, gates, module.fc1.groups).t().unsqueeze(-1)).sum(dim=0)


def dbrx(module: Any, hidden_states: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """DbrxExperts.forward.

    Args:
        module: its mlp has the weights of the experts in one matrix, [E · I, K] each.
        hidden_states: [B, S, K].
        index: int64[T, k], the experts of each token.
        gates: [T, k].

    Returns:
        [B, S, K].
    """
    width = module.hidden_size
    gate_proj, up_proj, down_proj = (
        weight.view(module.num_experts, -1, width) for weight in (module.mlp.w1, module.mlp.v1, module.mlp.w2)
    )
    x = hidden_states.reshape(1, -1, width)
    gate = module.mlp.activation_fn(torch.matmul(x, gate_proj.transpose(1, 2)))
    out = torch.matmul(gate * torch.matmul(x, up_proj.transpose(1, 2)), down_proj)
    weights = _expert_weights(index, gates, module.num_experts)
    return (out * weights.t().unsqueeze(-1)).sum(dim=0).view(hidden_states.shape)


def longcat_flash(module: Any, hidden_states: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """LongcatFlashExperts.forward: the last experts have no weights and return their input.

    Args:
        module: its gate_up_proj [E, 2 · I, K] has unused weights for the experts that return their input, and its
            down_proj [E - Z, K, I] has none for these Z.
        hidden_states: [T, K].
        index: int64[T, k], the experts of each token.
        gates: [T, k].

    Returns:
        [T, K].
    """
    weights = _expert_weights(index, gates, module.total_experts)
    computing = module.num_routed_experts
    out = hidden_states * weights[:, computing:].sum(dim=1, keepdim=True)
    if not computing:
        return out
    x = torch.matmul(hidden_states.unsqueeze(0), module.gate_up_proj[:computing].transpose(1, 2))
    gate, up = x.chunk(2, dim=-1)
    computed = torch.matmul(module.act_fn(gate) * up, module.down_proj.transpose(1, 2))
    return out + (computed * weights[:, :computing].t().unsqueeze(-1)).sum(dim=0)


def jetmoe(module: Any, layer_input: torch.Tensor) -> torch.Tensor:
    """JetMoeMoE.forward: [B, S, K] to [B, S, K]."""
    x = layer_input.reshape(-1, layer_input.shape[-1])
    index, gates = _jetmoe_route(module.router, x)
    gate, up = torch.matmul(x.unsqueeze(0), _transposed(module.input_linear)).chunk(2, dim=-1)
    out = torch.matmul(module.activation(gate) * up, _transposed(module.output_linear))
    weights = _expert_weights(index, gates, module.router.num_experts)
    return (out * weights.t().unsqueeze(-1)).sum(dim=0).view(layer_input.shape) + module.bias


def jetmoe_queries(module: Any, layer_input: torch.Tensor) -> tuple[torch.Tensor, None, tuple[torch.Tensor, ...]]:
    """JetMoeMoA.map: the query projections of the experts of each token.

    Args:
        module: its input_linear has weights [E, H, K].
        layer_input: [B, S, K].

    Returns:
        Queries [B, S, k, H]; None for the router's logits; experts int64[T, k] and their gates [T, k].
    """
    batch, length, width = layer_input.shape
    x = layer_input.reshape(-1, width)
    index, gates = _jetmoe_route(module.router, x)
    of_all = torch.matmul(x.unsqueeze(0), _transposed(module.input_linear)).transpose(0, 1)
    queries = of_all.gather(1, index.unsqueeze(-1).expand(-1, -1, of_all.shape[-1]))
    return queries.view(batch, length, module.top_k, -1), None, (index, gates)


def jetmoe_outputs(module: Any, layer_input: torch.Tensor, chosen: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """JetMoeMoA.reduce: the output projections of the experts of each token, weighted and added.

    Args:
        module: its output_linear has weights [E, K, H].
        layer_input: [B, S, k, H].
        chosen: experts and gates, as `jetmoe_queries` returns them.

    Returns:
        [B, S, K].
    """
    batch, length, top_k, width = layer_input.shape
    index, gates = chosen
    weights = gates.unsqueeze(-1) * _one_hot(index, module.num_experts)  # [T, k, E]
    x = torch.matmul(weights.transpose(1, 2), layer_input.reshape(-1, top_k, width))  # [T, E, H]
    out = torch.matmul(x.transpose(0, 1), _transposed(module.output_linear)).sum(dim=0)
    return out.view(batch, length, -1) + module.bias


def _transposed(linear: Any) -> torch.Tensor:
    """The weights [E, in, out] of JetMoeParallelExperts."""
    return linear.weight.transpose(1, 2)


def _jetmoe_route(router: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts int64[T, k] of x [T, K] and their gates [T, k]."""
    logits, index = router.layer(x).float().topk(router.top_k, dim=1)
    return index, torch.softmax(logits, dim=1).type_as(x)


def _one_hot(index: torch.Tensor, experts: int) -> torch.Tensor:
    """Whether an expert is chosen: int64[T, k] to bool[T, k, E]."""
    return index.unsqueeze(-1) == torch.arange(experts, device=index.device)


def _expert_weights(index: torch.Tensor, gates: torch.Tensor, experts: int) -> torch.Tensor:
    """The gates of all experts [T, E], 0 for those that are not chosen."""
    return (gates.unsqueeze(-1) * _one_hot(index, experts)).sum(dim=1)
