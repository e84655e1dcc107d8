"""The functions that recurrent layers of transformers call, as ops of `edgekiln.export.recurrent_ops`.

They take the past of the current layer from the trace and leave its present there. While sizes are recorded, results
have the right shapes only.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import recurrent_ops
from edgekiln.export.recurrent_ops import UpdateRule
from edgekiln.export.tracing.cache_trace import StateShape, current


def mask_padding(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Zeros in place of tokens [B, S, ...] that are left padding; a mask that is given is that of a batch, ignored."""
    position_ids = current().position_ids
    return hidden_states if position_ids is None else recurrent_ops.mask_padding(hidden_states, position_ids)


def causal_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """The convolution of the current layer over x [B, C, S] with weight [C, K]; returns [B, C, S]."""
    trace = current()
    kind: dict[str | None, recurrent_ops.Activation] = {None: "none", "silu": "silu", "swish": "silu"}
    if activation not in kind:
        raise UnsupportedModelError(f"a convolution with the activation {activation} is not supported yet")
    past = trace.next_past(trace.layer, StateShape((x.shape[1], weight.shape[-1] - 1)))
    if past is None:
        return x
    out, present = recurrent_ops.causal_conv(x, weight, bias, *past, activation=kind[activation])
    trace.add_present(trace.layer, present)
    return out


def linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    rule: UpdateRule,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear attention of the current layer; arguments as in `recurrent_ops.linear_attention`."""
    trace = current()
    sizes = (value.shape[2], key.shape[3], value.shape[3])
    past = trace.next_past(trace.layer, StateShape(sizes))
    if past is None:
        return torch.empty_like(value), value.new_empty(value.shape[0], *sizes)
    out, present = recurrent_ops.linear_attention(query, key, value, past[0], decay, beta, rule=rule, scale=scale)
    trace.add_present(trace.layer, present)
    return out, present


def _l2_normalized(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)


def _gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    *_: Any,
    use_qk_l2norm_in_kernel: bool = False,
    **__: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gated DeltaNet, and Kimi delta attention, whose decay g has an axis more."""
    scale = query.shape[-1] ** -0.5
    if use_qk_l2norm_in_kernel:
        query, key = _l2_normalized(query), _l2_normalized(key)
    return linear_attention(query, key, value, g, beta, rule="gated_delta", scale=scale)


def _skipped_and_gated(
    out: torch.Tensor, x: torch.Tensor, skip: torch.Tensor | None, gate: torch.Tensor | None
) -> torch.Tensor:
    """The output of a scan plus skip · x, times silu(gate); `skip` has a factor for each row of the last axis of x."""
    if skip is not None:
        out = out + x * skip[..., None]
    return out if gate is None else out * F.silu(gate)


def _mamba2_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803 - the names are transformers'
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    *_: Any,
    D: torch.Tensor | None = None,  # noqa: N803
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **__: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan of Mamba-2, which is gated linear attention of values dt · x with decay dt · A."""
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    least, most = (limit if math.isfinite(limit) else None for limit in dt_limit)
    if most is not None or least:  # after softplus, 0 limits nothing
        dt = dt.clamp(least, most)
    out, state = linear_attention(C, B, hidden_states * dt[..., None], dt * A, rule="gated", scale=1.0)
    out = _skipped_and_gated(out, hidden_states, D, z)
    return (out, state) if return_final_states else out


def _mamba_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D: torch.Tensor | None = None,  # noqa: N803
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan of Mamba."""
    if delta_bias is not None:
        dt = dt + delta_bias[..., None]
    if delta_softplus:
        dt = F.softplus(dt)
    trace = current()
    past = trace.next_past(trace.layer, StateShape(tuple(A.shape)))
    if past is None:
        out, state = torch.empty_like(hidden_states), A.new_empty(hidden_states.shape[0], *A.shape)
    else:
        out, state = recurrent_ops.selective_scan(hidden_states, dt, A, B, C, *past)
        trace.add_present(trace.layer, state)
    out = _skipped_and_gated(out, hidden_states, D, z)
    return (out, state) if return_last_state else out


# Name in a modeling file of transformers -> our function.
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "apply_mask_to_padding_states": mask_padding,
    "causal_conv1d_fn": causal_conv,
    "torch_chunk_gated_delta_rule": _gated_delta_rule,
    "chunk_kimi_delta_attention": _gated_delta_rule,
    "mamba2_chunk_scan": _mamba2_scan,
    "mamba_selective_scan": _mamba_scan,
}
