"""Symmetric int8 quantization with one scale a row that minimises squared error.

CPUs without VNNI multiply unsigned activations by signed weights two neighbours at a time into 16 bits (vpmaddubsw),
which saturates from 255 · (w + w') > 32767 on. Neighbours of one sign therefore share a budget of 128 between them:
no activation saturates, on any CPU, and the error of the few pairs that are cut short is part of what the scale
search weighs.
"""

import torch

from edgekiln.calib.formats.arrays import QuantizedArrays
from edgekiln.calib.formats.row_parallel import map_rows

_LIMIT = 127
# 255 · 128 still fits 16 bits.
_PAIR_BUDGET = 128
# Candidates for the share of max|w| that code 127 stands for; above 1 the largest weight gets a smaller code, which
# leaves fewer pairs over their budget, and about 2 none.
_SPANS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 127 / 64)
_TINY = 1e-30


def quantize_rows(weight: torch.Tensor) -> QuantizedArrays:
    """Quantize float [N, K] to int8 codes in -127..127 and float32 [N] scales."""
    rows, columns = weight.shape
    codes = torch.empty((rows, columns), dtype=torch.int8)
    scales = torch.empty(rows, dtype=torch.float32)

    def quantize(part: slice) -> tuple[float, int]:
        x = weight[part].to(torch.float32)
        scale = _search(x)
        steps = (x / scale).round_()
        kept = _limit(steps.clone())
        clipped = int((steps != kept).sum())
        error = torch.linalg.vector_norm(torch.mul(kept, scale, out=steps).sub_(x), dtype=torch.float64).square()
        codes[part] = kept.to(torch.int8)
        scales[part] = scale[:, 0]
        return float(error), clipped

    errors, clipped = zip(*map_rows(quantize, rows, columns), strict=True)
    return QuantizedArrays(codes, scales, None, sum(errors), sum(clipped))


def _search(weight: torch.Tensor) -> torch.Tensor:
    """Scale [rows, 1] for float32 [rows, K].

    For given codes y the best scale is <x, y> / <y, y>. The squared error is summed from what that leaves of each
    weight: sums of squares of a whole row, such as <x, y>^2 / <y, y>, would bury the differences in their rounding.
    """
    unit = weight.abs().amax(1, keepdim=True) / _LIMIT
    empty = unit < _TINY
    unit[empty] = 1.0
    x = weight / unit
    codes, product = torch.empty_like(x), torch.empty_like(x)
    best_error, best_scale = torch.full_like(unit, torch.inf), torch.ones_like(unit)
    for span in _SPANS:
        torch.mul(x, 1 / span, out=codes)
        _limit(codes.round_())
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


def _limit(codes: torch.Tensor) -> torch.Tensor:
    """Clip rounded codes [rows, K] to int8 and neighbours (0 and 1, 2 and 3, …) to their budget, in place."""
    codes.clamp_(-_LIMIT, _LIMIT)
    even = codes[:, : codes.shape[1] // 2 * 2].unflatten(1, (-1, 2))
    total = even.sum(2)
    excess = (total.abs() - _PAIR_BUDGET).clamp_(min=0)
    # Opposite signs partly cancel and never reach the budget, so an excess means that both have the sign of the total.
    half = (excess / 2).ceil_()
    sign = total.sign()
    even[:, :, 0] -= half * sign
    even[:, :, 1] -= (excess - half) * sign
    return codes
