"""Expert blocks that transformers computes in modules of their own, not through `moe`.

Their modules sort tokens by expert, which gives tensors of data-dependent shapes. Here they are traced as in `moe`.
"""

from typing import Any

import torch
from torch.nn.functional import silu

from edgekiln.export.tracing.moe import multiply, weighted_sum


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
    up, gate = multiply(hidden_states.unsqueeze(1), index, module.fc1.weight, transposed=True).chunk(2, dim=-1)
    return weighted_sum(multiply(silu(up) * gate, index, module.fc2.weight, transposed=True), gates)


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
    width, mlp = module.hidden_size, module.mlp

    def stacked(weight: Any) -> Any:
        return weight.view(module.num_experts, -1, width) if isinstance(weight, torch.Tensor) else weight

    x = hidden_states.reshape(-1, 1, width)
    gate = mlp.activation_fn(multiply(x, index, stacked(mlp.w1)))
    x = gate * multiply(x, index, stacked(mlp.v1))
    return weighted_sum(multiply(x, index, stacked(mlp.w2), transposed=True), gates).view(hidden_states.shape)


def llama4(module: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Llama4TextMoe.forward: the inputs of experts are weighted, and not their outputs.

    Args:
        module: its experts have weights [E, K, 2 · I] and [E, I, K].
        hidden_states: [B, S, K].

    Returns:
        [T, K], and the router's logits [T, E].
    """
    x = hidden_states.reshape(-1, module.hidden_dim)
    logits = torch.nn.functional.linear(x, module.router.weight)
    chosen, index = logits.topk(module.top_k, dim=1)
    experts = module.experts
    inputs = x.unsqueeze(1) * torch.sigmoid(chosen).unsqueeze(-1)
    gate, up = multiply(inputs, index, experts.gate_up_proj, transposed=True).chunk(2, dim=-1)
    outputs = multiply(up * experts.act_fn(gate), index, experts.down_proj, transposed=True)
    return module.shared_expert(x) + outputs.sum(dim=1), logits


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
    computing = module.num_routed_experts
    returning = index >= computing
    out = hidden_states * (gates * returning).sum(dim=1, keepdim=True)
    if not computing:
        return out
    # A chosen expert that returns its input has no product: expert 0 takes its place, with an input and a gate of 0.
    index = torch.where(returning, 0, index)
    gate, up = multiply(hidden_states.unsqueeze(1), index, module.gate_up_proj).chunk(2, dim=-1)
    inner = torch.where(returning.unsqueeze(-1), 0.0, module.act_fn(gate) * up)
    computed = multiply(inner, index, module.down_proj)
    return out + weighted_sum(computed, torch.where(returning, 0.0, gates))


def jetmoe(module: Any, layer_input: torch.Tensor) -> torch.Tensor:
    """JetMoeMoE.forward: [B, S, K] to [B, S, K]."""
    x = layer_input.reshape(-1, layer_input.shape[-1])
    index, gates = _jetmoe_route(module.router, x)
    gate, up = multiply(x.unsqueeze(1), index, module.input_linear.weight).chunk(2, dim=-1)
    out = multiply(module.activation(gate) * up, index, module.output_linear.weight)
    return weighted_sum(out, gates).view(layer_input.shape) + module.bias


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
    queries = multiply(x.unsqueeze(1), index, module.input_linear.weight)
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
    out = multiply(layer_input.reshape(-1, top_k, width), index, module.output_linear.weight)
    return weighted_sum(out, gates).view(batch, length, -1) + module.bias


def _jetmoe_route(router: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts int64[T, k] of x [T, K] and their gates [T, k]."""
    logits, index = router.layer(x).float().topk(router.top_k, dim=1)
    return index, torch.softmax(logits, dim=1).type_as(x)
