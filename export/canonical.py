"""The three ops of edgekiln's own ONNX domain, as the tracer emits them.

Everything else in the canonical graph is a standard op of opset 23. `edgekiln.export.op_reference` holds the numpy
definition of each op, which is the truth the lowerings are tested against.
"""

from collections.abc import Sequence

import torch

from edgekiln.calib.formats.scheme import Activation, Codebook

DOMAIN = "edgekiln"
VERSION = 1
OPSET = 23


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_key: torch.Tensor,
    past_value: torch.Tensor,
    start: torch.Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Emit `edgekiln::Attention`: causal grouped-query attention over past and new keys.

    Args:
        query: [B, H, S, D], rotated.
        key, value: [B, KV, S, D], rotated.
        past_key, past_value: [B, KV, P, D].
        start: int64[B], the first key slot that is not left padding.
        scale: factor on query·key.
        window: a query sees the last `window` keys, itself included; None sees all.
        softcap: scores become softcap · tanh(score / softcap); None leaves them.

    Returns:
        out [B, S, H, D], present_key and present_value [B, KV, P + S, D].
    """
    batch, heads, length, head_dim = query.shape
    present_shape = (batch, key.shape[1], past_key.shape[2] + length, head_dim)
    out, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::Attention",
        (query, key, value, past_key, past_value, start),
        attrs={"scale": float(scale), "window": int(window or 0), "softcap": float(softcap or 0.0)},
        dtypes=(query.dtype,) * 3,
        shapes=((batch, length, heads, head_dim), present_shape, present_shape),
        version=VERSION,
    )
    return out, present_key, present_value


def quantized_matmul(
    x: torch.Tensor,
    qweight: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    group_bias: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    activation: Activation,
    codebook: Codebook | None = None,
) -> torch.Tensor:
    """Emit `edgekiln::QuantizedMatMul`: x · dequantize(qweight)ᵀ.

    Args:
        x: float [..., K].
        qweight: grouped: uint8 [N, K · bits / 8], 4-bit codes packed low nibble first; per-channel: int8 [N, K].
        scales: float [N, K / group_size]; [N] for per-channel.
        zero_points: uint8 [N, K / group_size]; None when symmetric: the middle code, 8 or 128, or 0 for per-channel.
        group_bias: float [N, K / group_size], added to the weights of each group; None for none.
        input_scale: float [], one step of x, where activation is `int8-static`.
        bits: 4 or 8.
        group_size: inputs that share a scale; 0 for per-channel.
        activation: `int8-per-token` quantizes each row of x to int8 first, with its own scale; `int8-static` all of x
            with `input_scale`, exactly as QuantizeLinear to int8 with zero point 0 does.
        codebook: the table that 4-bit codes are looked up in (`edgekiln.calib.formats.weight.CODEBOOKS`), without
            zero points.

    Returns:
        float [..., N].
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::QuantizedMatMul",
        _given(x, qweight, scales, zero_points, group_bias, input_scale),
        attrs={"bits": bits, "group_size": group_size, "activation": activation, "codebook": codebook or ""},
        dtype=x.dtype,
        shape=(*x.shape[:-1], qweight.shape[0]),
        version=VERSION,
    )


def reordered(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Emit a standard Gather: x [..., K] with its last axis in the int64 [K] `order`."""
    return torch.onnx.ops.symbolic("Gather", (x, order), attrs={"axis": -1}, dtype=x.dtype, shape=x.shape)


def quantized_gather(
    indices: torch.Tensor,
    qweight: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    group_bias: torch.Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    hidden_size: int,
) -> torch.Tensor:
    """Emit `edgekiln::QuantizedGather`: rows `indices` (int64 [...]) of dequantize(qweight), float32 [..., K].

    The weight has the grouped layout of `quantized_matmul`, so that a tied head reads the same tensor.
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::QuantizedGather",
        _given(indices, qweight, scales, zero_points, group_bias),
        attrs={"bits": bits, "group_size": group_size},
        dtype=scales.dtype,
        shape=(*indices.shape, hidden_size),
        version=VERSION,
    )


def _given(*inputs: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
    """Inputs up to the last that is given."""
    last = max(i for i, value in enumerate(inputs) if value is not None)
    return inputs[: last + 1]
