"""Reference implementations of the canonical ops in numpy, which lowerings are tested against.

They plug into onnx's reference evaluator, which then runs whole canonical graphs.
"""

from collections.abc import Callable
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from edgekiln.calib.formats.scheme import Codebook
from edgekiln.calib.formats.weight import CODEBOOKS
from edgekiln.export import canonical, recurrent_reference

Array = npt.NDArray[Any]


def attention(
    query: Array,
    key: Array,
    value: Array,
    past_key: Array,
    past_value: Array,
    start: Array,
    sinks: Array | None = None,
    slopes: Array | None = None,
    *,
    scale: float,
    window: int = 0,
    chunk: int = 0,
    softcap: float = 0.0,
    bfloat16_alibi: int = 0,
) -> tuple[Array, Array, Array]:
    """Causal grouped-query attention; arguments and results as in `edgekiln.export.canonical.attention`."""
    present_key = np.concatenate([past_key, key], axis=2)
    present_value = np.concatenate([past_value, value], axis=2)
    batch, heads, length, _ = query.shape
    total, past = present_key.shape[2], past_key.shape[2]
    share = heads // key.shape[1]
    scores = query @ np.repeat(present_key, share, axis=1).swapaxes(2, 3) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    keys = np.arange(total) - start.reshape(batch, 1, 1)  # positions [B, 1, T]
    own = past + np.arange(length)[:, None] - start.reshape(batch, 1, 1)  # [B, S, 1]
    visible = (keys <= own) & (keys >= 0)
    if window:
        visible &= keys > own - window
    if chunk:
        visible &= keys // chunk == own // chunk
    if slopes is not None:
        of_keys, of_queries = (_alibi(slopes, x, scale if bfloat16_alibi else None) for x in (keys, own))
        scores = scores + (of_keys - of_queries).astype(scores.dtype)
    scores = np.where(visible[:, None], scores, -np.inf)
    # A padding query has no visible key: with a maximum of 0 its output is 0, not NaN.
    largest = scores.max(axis=-1, keepdims=True)
    sink = np.full((1, heads, 1, 1), -np.inf) if sinks is None else sinks.reshape(1, heads, 1, 1)
    largest = np.maximum(np.where(np.isfinite(largest), largest, 0 if sinks is None else -np.inf), sink)
    weights = np.exp(scores - largest)
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True) + np.exp(sink - largest), np.finfo(weights.dtype).tiny)
    out = (weights @ np.repeat(present_value, share, axis=1)).swapaxes(1, 2)
    return out.astype(query.dtype), present_key, present_value


def _alibi(slopes: Array, positions: Array, scale: float | None) -> Array:
    """slopes [H] · positions [B, ...], as [B, H, ...]; with `scale` rounded to bfloat16 and multiplied by it."""
    factors = slopes.reshape(1, -1, 1, 1), positions[:, None].astype(np.float32)
    if scale is None:
        return np.asarray(factors[0] * factors[1])
    rounded = [factor.astype(ml_dtypes.bfloat16).astype(np.float32) for factor in factors]
    return np.asarray((rounded[0] * rounded[1]).astype(ml_dtypes.bfloat16).astype(np.float32) * scale)


def dequantize(
    qweight: Array,
    scales: Array,
    zero_points: Array | None,
    group_bias: Array | None = None,
    *,
    bits: int,
    group_size: int,
    codebook: str = "",
) -> Array:
    """Dequantize a weight to float32 [N, K]; layout as in `edgekiln.export.canonical.quantized_matmul`."""
    if bits == 4:
        qweight = np.stack([qweight & 15, qweight >> 4], axis=-1).reshape(qweight.shape[0], -1)
    if not group_size:
        return np.asarray(qweight.astype(np.float32) * scales[:, None])
    codes = qweight.reshape(qweight.shape[0], -1, group_size)
    if codebook:
        blocks = CODEBOOKS[cast(Codebook, codebook)][codes]
    else:
        blocks = codes.astype(np.float32) - (1 << (bits - 1) if zero_points is None else zero_points[..., None])
    values = blocks * scales[..., None] + (0 if group_bias is None else group_bias[..., None])
    return np.asarray(values, dtype=np.float32).reshape(qweight.shape)


def quantize_tokens(x: Array) -> Array:
    """Fake-quantize x [..., K] to int8 with one scale a token, max|x| / 127."""
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-10) / 127
    return np.asarray(np.rint(x / scale) * scale, dtype=x.dtype)


def quantize_input(x: Array, scale: Array) -> Array:
    """Fake-quantize x [..., K] to int8 with one static scale, as QuantizeLinear and DequantizeLinear do."""
    return np.asarray(np.clip(np.rint(x / scale), -128, 127) * scale, dtype=x.dtype)


def quantized_matmul(
    x: Array,
    qweight: Array,
    scales: Array,
    zero_points: Array | None = None,
    group_bias: Array | None = None,
    input_scale: Array | None = None,
    *,
    bits: int,
    group_size: int,
    activation: str = "none",
    codebook: str = "",
) -> Array:
    """x [..., K] · dequantize(qweight)ᵀ, with x fake-quantized first according to `activation`."""
    if activation == "int8-per-token":
        x = quantize_tokens(x)
    elif activation == "int8-static":
        if input_scale is None:
            raise ValueError("int8-static activations need an input scale")
        x = quantize_input(x, input_scale)
    weight = dequantize(qweight, scales, zero_points, group_bias, bits=bits, group_size=group_size, codebook=codebook)
    return np.asarray(x @ weight.T)


def expert_matmul(x: Array, index: Array, weight: Array) -> Array:
    """x[t, j] · weight[index[t, j]]ᵀ: [T, 1 or k, K] and [E, N, K] to [T, k, N]."""
    x = np.broadcast_to(x, (*index.shape, x.shape[-1]))
    result = np.empty((*index.shape, weight.shape[1]), x.dtype)
    for expert in np.unique(index):
        result[index == expert] = x[index == expert] @ weight[expert].T
    return result


def quantized_expert_matmul(
    x: Array,
    index: Array,
    qweight: Array,
    scales: Array,
    zero_points: Array | None = None,
    group_bias: Array | None = None,
    *,
    bits: int,
    group_size: int,
    activation: str = "none",
    codebook: str = "",
) -> Array:
    """`expert_matmul` with dequantize(qweight) of each expert, and x fake-quantized first as in `quantized_matmul`."""
    if activation == "int8-per-token":
        x = quantize_tokens(x)

    def of_expert(values: Array | None, expert: int) -> Array | None:
        return None if values is None else values[expert]

    weights = [
        dequantize(
            qweight[expert],
            scales[expert],
            of_expert(zero_points, expert),
            of_expert(group_bias, expert),
            bits=bits,
            group_size=group_size,
            codebook=codebook,
        )
        for expert in range(len(qweight))
    ]
    return expert_matmul(x, index, np.stack(weights))


def quantized_gather(
    indices: Array,
    qweight: Array,
    scales: Array,
    zero_points: Array | None = None,
    group_bias: Array | None = None,
    *,
    bits: int,
    group_size: int,
) -> Array:
    """Rows of dequantize(qweight)."""
    return dequantize(qweight, scales, zero_points, group_bias, bits=bits, group_size=group_size)[indices]


def _op(name: str, function: Callable[..., Any]) -> type[OpRun]:
    """The OpRun class of op `name` of our domain. It has its own schema, as onnx defines an Attention too."""

    def run(self: OpRun, *inputs: Array, **attributes: Any) -> tuple[Array, ...]:
        result = function(*inputs, **attributes)
        return result if isinstance(result, tuple) else (result,)

    schema = onnx.defs.OpSchema(name, canonical.DOMAIN, canonical.VERSION)
    return type(name, (OpRun,), {"op_domain": canonical.DOMAIN, "op_schema": schema, "_run": run})


class GatherElements(OpRun):
    """The standard op, which onnx computes along axes of up to 64 elements only."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        return (np.take_along_axis(data, indices, axis),)


_OPS: list[type[OpRun]] = [
    GatherElements,
    _op("Attention", attention),
    _op("QuantizedMatMul", quantized_matmul),
    _op("QuantizedGather", quantized_gather),
    _op("ExpertMatMul", expert_matmul),
    _op("QuantizedExpertMatMul", quantized_expert_matmul),
    _op("SequenceLength", lambda position_ids, limit: position_ids[:, -1] + 1),
    _op("MaskPadding", recurrent_reference.mask_padding),
    _op("CausalConv", recurrent_reference.causal_conv),
    _op("LinearAttention", recurrent_reference.linear_attention),
    _op("SelectiveScan", recurrent_reference.selective_scan),
    _op("Wkv", recurrent_reference.wkv),
]


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """An evaluator that runs a canonical graph in numpy: slow, and independent of every runtime."""
    return ReferenceEvaluator(model, new_ops=_OPS)
