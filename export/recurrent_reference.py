"""Reference implementations in numpy of the canonical ops for layers with states; see `edgekiln.export.recurrent_ops`.

Arguments and results are those of the functions there. Each token is computed by itself, in float64.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def mask_padding(x: Array, position_ids: Array) -> Array:
    """Zeros in place of left padding."""
    length = x.shape[1]
    padding = position_ids[:, -1:] < length - 1 - np.arange(length)
    return np.where(padding.reshape(*padding.shape, *(1,) * (x.ndim - 2)), np.zeros_like(x), x)


def causal_conv(
    x: Array, weight: Array, past: Array, bias: Array | None = None, *, activation: str
) -> tuple[Array, Array]:
    """Depthwise causal convolution."""
    columns = np.concatenate([past, x], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(columns, weight.shape[-1], axis=-1)
    out = np.einsum("bcsk,ck->bcs", windows, weight, dtype=np.float64) + (0 if bias is None else bias[:, None])
    if activation == "silu":
        out = out / (1 + np.exp(-out))
    return out.astype(x.dtype), columns[..., columns.shape[-1] - past.shape[-1] :]


def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    past: Array,
    decay: Array | None = None,
    beta: Array | None = None,
    *,
    rule: str,
    scale: float,
) -> tuple[Array, Array]:
    """Linear attention, token by token."""
    share = value.shape[2] // query.shape[2]
    query, key = (np.repeat(x.astype(np.float64), share, axis=2) for x in (query, key))
    state = past.astype(np.float64)
    out = np.empty(value.shape, np.float64)
    for token in range(value.shape[1]):
        k = key[:, token, :, :, None]
        new = value[:, token, :, None, :].astype(np.float64)
        if rule.startswith("gated"):
            assert decay is not None
            factor = np.exp(decay[:, token].astype(np.float64))
            state = state * (factor[..., None] if factor.ndim == 3 else factor[..., None, None])
        if rule.endswith("delta"):
            assert beta is not None
            new = beta[:, token, :, None, None] * (new - (state * k).sum(axis=2, keepdims=True))
        state = state + k * new
        out[:, token] = scale * (state * query[:, token, :, :, None]).sum(axis=2)
    return out.astype(value.dtype), state.astype(past.dtype)


def selective_scan(x: Array, step: Array, a: Array, b: Array, c: Array, past: Array) -> tuple[Array, Array]:
    """The state space model of Mamba, token by token."""
    state = past.astype(np.float64)
    out = np.empty(x.shape, np.float64)
    for token in range(x.shape[2]):
        size = step[:, :, token, None].astype(np.float64)
        state = np.exp(size * a) * state + size * x[:, :, token, None] * b[:, None, :, token]
        out[:, :, token] = (state * c[:, None, :, token]).sum(axis=-1)
    return out.astype(x.dtype), state.astype(past.dtype)


def wkv(key: Array, value: Array, decay: Array, bonus: Array, past: Array) -> tuple[Array, Array]:
    """The attention of RWKV-4, token by token."""
    numerator, denominator, maximum = (past[:, i].astype(np.float64) for i in range(3))
    maximum = np.where(denominator == 0, -np.inf, maximum)
    out = np.empty(value.shape, np.float64)
    for token in range(value.shape[1]):
        k, v = key[:, token].astype(np.float64), value[:, token].astype(np.float64)
        most = np.maximum(maximum, k + bonus)
        old, new = np.exp(maximum - most), np.exp(k + bonus - most)
        out[:, token] = (old * numerator + new * v) / (old * denominator + new)
        most = np.maximum(maximum - decay, k)
        old, new = np.exp(maximum - decay - most), np.exp(k - most)
        numerator, denominator, maximum = old * numerator + new * v, old * denominator + new, most
    return out.astype(value.dtype), np.stack([numerator, denominator, maximum], axis=1).astype(past.dtype)
