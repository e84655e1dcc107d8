"""The ops of the canonical graph for layers with states: MaskPadding, CausalConv, LinearAttention, SelectiveScan, Wkv.

They belong to domain `edgekiln`, as those of `edgekiln.export.canonical`; `edgekiln.export.recurrent_reference` defines
each in numpy. A state has the sizes of its past in the present; the past of a new sequence is zero.
"""

from typing import Literal, get_args

import torch

from edgekiln.export.canonical import DOMAIN, VERSION, without_trailing_none

UpdateRule = Literal["linear", "gated", "delta", "gated_delta"]
Activation = Literal["none", "silu"]


def mask_padding(x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """Emit `edgekiln::MaskPadding`: zeros in place of the tokens that are left padding.

    Args:
        x: float [B, S, ...].
        position_ids: int64[B, S]. The sequences are aligned at their last token, so token s is padding if the position
            of the last one is less than S - 1 - s.

    Returns:
        float [B, S, ...].
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::MaskPadding", (x, position_ids), dtype=x.dtype, shape=x.shape, version=VERSION
    )


def causal_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    past: torch.Tensor,
    *,
    activation: Activation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Emit `edgekiln::CausalConv`: a depthwise convolution over the past columns and the new ones.

    Args:
        x: float [B, C, S].
        weight: float [C, K].
        bias: float [C], or None.
        past: float [B, C, K - 1], the last columns before x.
        activation: applied to the result.

    Returns:
        out [B, C, S], and present [B, C, K - 1], the last columns of past and x.
    """
    out, present = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::CausalConv",
        without_trailing_none(x, weight, past, bias),
        attrs={"activation": activation},
        dtypes=(x.dtype, x.dtype),
        shapes=(x.shape, past.shape),
        version=VERSION,
    )
    return out, present


def linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past: torch.Tensor,
    decay: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    rule: UpdateRule,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Emit `edgekiln::LinearAttention`, one state a head that each token updates; the rules are those of ONNX.

    With state S [DK, DV], a token's q, k, v, and k ⊗ v the outer product (LinearAttention of ONNX opset 27):
        linear: S += k ⊗ v
        gated: S = exp(decay) S + k ⊗ v
        delta: S += beta k ⊗ (v - Sᵀk)
        gated_delta: the same after S = exp(decay) S
    The output is scale · Sᵀq.

    Args:
        query, key: float [B, S, G, DK], where G divides H: heads h · H / G to (h + 1) · H / G share head h.
        value: float [B, S, H, DV].
        past: float [B, H, DK, DV].
        decay: float [B, S, H], or [B, S, H, DK] for a decay of each row of the state; for the gated rules.
        beta: float [B, S, H], for the delta rules.
        rule: the update rule.
        scale: factor on the output.

    Returns:
        out [B, S, H, DV] and present [B, H, DK, DV].
    """
    assert rule in get_args(UpdateRule)
    out, present = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::LinearAttention",
        without_trailing_none(query, key, value, past, decay, beta),
        attrs={"rule": rule, "scale": float(scale)},
        dtypes=(value.dtype, past.dtype),
        shapes=(value.shape, past.shape),
        version=VERSION,
    )
    return out, present


def selective_scan(
    x: torch.Tensor,
    step: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    past: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Emit `edgekiln::SelectiveScan`, the state space model of Mamba (Gu and Dao, 2023, algorithm 2).

    For each token the state S [C, N] of a channel becomes exp(step · a) S + step · x · b; the output is S c.

    Args:
        x: float [B, C, S].
        step: float [B, C, S], the step size (Δ), not negative.
        a: float [C, N].
        b, c: float [B, N, S].
        past: float [B, C, N].

    Returns:
        out [B, C, S] and present [B, C, N].
    """
    out, present = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::SelectiveScan",
        (x, step, a, b, c, past),
        dtypes=(x.dtype, past.dtype),
        shapes=(x.shape, past.shape),
        version=VERSION,
    )
    return out, present


def wkv(
    key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, bonus: torch.Tensor, past: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Emit `edgekiln::Wkv`, the attention of RWKV-4 (Peng et al., "RWKV: Reinventing RNNs for the Transformer Era").

    The output of token t is a mean of the values of tokens i <= t, weighted by exp(key_i - (t - 1 - i) · decay), and
    by exp(key_t + bonus) for its own. The state holds numerator and denominator, both divided by exp(maximum), and the
    maximum; a denominator of 0 is an empty state.

    Args:
        key, value: float [B, S, C].
        decay: float [C], positive.
        bonus: float [C].
        past: float [B, 3, C].

    Returns:
        out [B, S, C] and present [B, 3, C].
    """
    out, present = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::Wkv",
        (key, value, decay, bonus, past),
        dtypes=(value.dtype, past.dtype),
        shapes=(value.shape, past.shape),
        version=VERSION,
    )
    return out, present
