"""Symmetric int8 quantization with one scale per output channel, which minimizes the channel's squared error.

CPUs without VNNI multiply pairs of unsigned activations and signed weights into 16-bit sums (vpmaddubsw), which
saturate where 255 · (w + w') > 32767. Two neighbouring codes of the same sign are therefore limited to a sum of 128, so
that no activation saturates on any CPU. The scale search includes the error of the few pairs that are reduced.
"""

import torch

from edgekiln.calib.formats.arrays import QuantizedArrays
from edgekiln.calib.formats.channel_parallel import map_channels

_INT8_MAX = 127
# 255 · 128 still fits 16 bits.
_PAIR_BUDGET = 128
# Candidates for the value of code 127, in units of max|w|. Above 1 the largest weight gets a smaller code, which leaves
# fewer pairs over their budget; with about 2 no pair is.
_SPANS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 127 / 64)
_SMALLEST = 1e-30


def quantize_per_channel(weight: torch.Tensor) -> QuantizedArrays:
    """Quantize a float weight [N, K] to int8 codes in -127..127 and float32 scales [N]."""
    n, k = weight.shape
    codes = torch.empty((n, k), dtype=torch.int8)
    scales = torch.empty(n, dtype=torch.float32)

    def quantize(part: slice) -> tuple[float, int]:
        x = weight[part].to(torch.float32)
        scale = _search(x)
        steps = (x / scale).round_()
        kept = _clip_codes(steps.clone())
        clipped = int((steps != kept).sum())
        error = torch.linalg.vector_norm(torch.mul(kept, scale, out=steps).sub_(x), dtype=torch.float64).square()
        codes[part] = kept.to(torch.int8)
        scales[part] = scale[:, 0]
        return float(error), clipped

    errors, clipped = zip(*map_channels(quantize, n, k), strict=True)
    return QuantizedArrays(codes, scales, None, sum(errors), sum(clipped))


def _search(weight: torch.Tensor) -> torch.Tensor:
    """Find the scales [N, 1] of float32 [N, K].

    For given codes y the best scale is <x, y> / <y, y>. The squared error is summed over the differences of each
    weight: the difference of two sums over a channel, such as <x, x> - <x, y>^2 / <y, y>, would cancel too many digits.
    """
    unit = weight.abs().amax(1, keepdim=True) / _INT8_MAX
    empty = unit < _SMALLEST
    unit[empty] = 1.0
    x = weight / unit
    codes, product = torch.empty_like(x), torch.empty_like(x)
    best_error, best_scale = torch.full_like(unit, torch.inf), torch.ones_like(unit)
    for span in _SPANS:
        torch.mul(x, 1 / span, out=codes)
        _clip_codes(codes.round_())
        cross = torch.mul(x, codes, out=product).sum(1, keepdim=True)
        norm = torch.mul(codes, codes, out=product).sum(1, keepdim=True).clamp_(min=1)
        scale = cross / norm
        torch.mul(codes, scale, out=product).sub_(x)
        error = torch.linalg.vector_norm(product, dim=1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
    best_scale *= unit
    best_scale[empty] = 1.0
    return best_scale


def _clip_codes(codes: torch.Tensor) -> torch.Tensor:
    """Clip rounded codes [N, K] to int8, and pairs of columns (0 and 1, 2 and 3, …) to their budget, in place."""
    codes.clamp_(-_INT8_MAX, _INT8_MAX)
    even = codes[:, : codes.shape[1] // 2 * 2].unflatten(1, (-1, 2))
    total = even.sum(2)
    excess = (total.abs() - _PAIR_BUDGET).clamp_(min=0)
    # Codes of opposite signs never exceed the budget, so that in a pair over it both have the sign of the total.
    half = (excess / 2).ceil_()
    sign = total.sign()
    even[:, :, 0] -= half * sign
    even[:, :, 1] -= (excess - half) * sign
    return codes
