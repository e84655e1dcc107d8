"""The ops of the canonical graph that ONNX lacks, of domain `edgekiln`: Attention, QuantizedMatMul, QuantizedGather,
ExpertMatMul, QuantizedExpertMatMul and SequenceLength.

All other ops of the canonical graph are standard ops of opset 23. `edgekiln.export.op_reference` defines each op in
numpy; lowerings are tested against it.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch

from edgekiln.calib.formats.scheme import Activation, Codebook

T = TypeVar("T")

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
    sinks: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    bfloat16_alibi: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Emit `edgekiln::Attention`: causal grouped-query attention over past and new keys.

    Positions count from `start`. A score is capped, then biased, then masked.

    Args:
        query: [B, H, S, D], with rotary embedding applied.
        key, value: [B, KV, S, D], likewise.
        past_key, past_value: [B, KV, P, D].
        start: int64[B], the first key slot of each sequence that is not left padding.
        sinks: [H], a score of each head that takes part in the softmax and has no value; None for none.
        slopes: [H], ALiBi: slope · (position of the key - position of the query) is added to a score; None for none.
        scale: factor on query·key.
        window: number of last keys that a query sees, its own included; None for all.
        chunk: a query sees the keys of its own chunk of so many positions; None for all.
        softcap: scores become softcap · tanh(score / softcap); None for no cap.
        bfloat16_alibi: slopes, positions and their products are rounded to bfloat16, and then multiplied by scale.

    Returns:
        out [B, S, H, D], present_key and present_value [B, KV, P + S, D].
    """
    batch, heads, length, head_dim = query.shape
    present_shape = (batch, key.shape[1], past_key.shape[2] + length, head_dim)
    out, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::Attention",
        without_trailing_none(query, key, value, past_key, past_value, start, sinks, slopes),
        attrs={
            "scale": float(scale),
            "window": int(window or 0),
            "softcap": float(softcap or 0.0),
            **({"chunk": chunk} if chunk else {}),
            **({"bfloat16_alibi": 1} if bfloat16_alibi else {}),
        },
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
        zero_points: uint8 [N, K / group_size]; None when symmetric, for 8 (4 bits), 128 (8 bits) or 0 (per-channel).
        group_bias: float [N, K / group_size], added to the weights of each group; None for no bias.
        input_scale: float [], the scale of x, where activation is `int8-static`.
        bits: 4 or 8.
        group_size: number of inputs that share a scale; 0 for per-channel.
        activation: `int8-per-token` quantizes each token of x to int8 first, with its own scale; `int8-static` all of x
            with `input_scale`, exactly as QuantizeLinear to int8 with zero point 0 does.
        codebook: the table that 4-bit codes are looked up in (`edgekiln.calib.formats.weight.CODEBOOKS`), without
            zero points.

    Returns:
        float [..., N].
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::QuantizedMatMul",
        without_trailing_none(x, qweight, scales, zero_points, group_bias, input_scale),
        attrs={"bits": bits, "group_size": group_size, "activation": activation, "codebook": codebook or ""},
        dtype=x.dtype,
        shape=(*x.shape[:-1], qweight.shape[0]),
        version=VERSION,
    )


def expert_matmul(x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Emit `edgekiln::ExpertMatMul`: each token times the weights of the experts that a router chose for it.

    One projection of a mixture of experts, as ggml's MUL_MAT_ID. Router, activation and the weighted sum over a
    token's experts are standard ops, so that the projections of an expert may have different formats.

    Args:
        x: float [T, S, K] of T tokens; S is 1 where all experts of a token read the same, or else k.
        index: int64[T, k], the experts of each token. Those of S = k differ from each other, but for inputs of zeros.
        weight: float [E, N, K].

    Returns:
        float [T, k, N]: x[t, j] · weight[index[t, j]]ᵀ.
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::ExpertMatMul",
        (x, index, weight),
        dtype=x.dtype,
        shape=(*index.shape, weight.shape[1]),
        version=VERSION,
    )


def quantized_expert_matmul(
    x: torch.Tensor,
    index: torch.Tensor,
    qweight: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    group_bias: torch.Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    activation: Activation,
    codebook: Codebook | None = None,
) -> torch.Tensor:
    """Emit `edgekiln::QuantizedExpertMatMul`: `expert_matmul` with dequantize(qweight).

    Args:
        x: float [T, 1 or k, K].
        index: int64[T, k].
        qweight, scales, zero_points, group_bias: as in `quantized_matmul`, with a first axis for the E experts.
        bits, group_size, activation, codebook: as in `quantized_matmul`; activations are not `int8-static`.

    Returns:
        float [T, k, N].
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::QuantizedExpertMatMul",
        without_trailing_none(x, index, qweight, scales, zero_points, group_bias),
        attrs={"bits": bits, "group_size": group_size, "activation": activation, "codebook": codebook or ""},
        dtype=x.dtype,
        shape=(*index.shape, qweight.shape[1]),
        version=VERSION,
    )


def sequence_length(position_ids: torch.Tensor, limit: int) -> torch.Tensor:
    """Emit `edgekiln::SequenceLength`: the length of each sequence, with all tokens of the prompt of a run.

    Args:
        position_ids: int64[B, S].
        limit: the length at which what is computed from the result changes: only `result > limit` is used.

    Returns:
        int64[B]; in a run of a whole sequence, the last position plus one.
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::SequenceLength",
        (position_ids,),
        attrs={"limit": limit},
        dtype=torch.int64,
        shape=position_ids.shape[:1],
        version=VERSION,
    )


def reordered(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Emit a standard Gather that puts the last axis of x [..., K] in the order int64 [K]."""
    return torch.onnx.ops.symbolic("Gather", (x, order), attrs={"axis": -1}, dtype=x.dtype, shape=x.shape)


def reordered_for_experts(x: torch.Tensor, index: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Emit standard ops that put the inputs of the experts of each token in the order of the expert's columns.

    Args:
        x: float [T, 1 or k, K].
        index: int64[T, k], the experts of each token.
        order: int64 [E, K].

    Returns:
        float [T, k, K].
    """
    shape = (*index.shape, x.shape[-1])
    orders = torch.onnx.ops.symbolic("Gather", (order, index), attrs={"axis": 0}, dtype=order.dtype, shape=shape)
    whole = x.expand(shape)
    return torch.onnx.ops.symbolic("GatherElements", (whole, orders), attrs={"axis": 2}, dtype=x.dtype, shape=shape)


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

    The weight has the grouped layout of `quantized_matmul`, so that a tied LM head reads the same tensor.
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::QuantizedGather",
        without_trailing_none(indices, qweight, scales, zero_points, group_bias),
        attrs={"bits": bits, "group_size": group_size},
        dtype=scales.dtype,
        shape=(*indices.shape, hidden_size),
        version=VERSION,
    )


def without_trailing_none(*inputs: T | None) -> Sequence[T | None]:
    """The inputs of a node up to the last that is not None."""
    last = max((i for i, value in enumerate(inputs) if value is not None), default=-1)
    return inputs[: last + 1]
