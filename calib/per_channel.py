"""Symmetric int8 quantization with one scale a row that minimises squared error."""

import torch

from edgekiln.calib.arrays import QuantizedArrays
from edgekiln.calib.rows import map_rows

_LIMIT = 127
# Candidates for the share of max|w| that code 127 stands for.
_SPANS = (1.0, 0.95, 0.9, 0.8)
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
        kept = steps.clamp(-_LIMIT, _LIMIT)
        clipped = int((steps != kept).sum())
        error = torch.linalg.vector_norm(torch.mul(kept, scale, out=steps).sub_(x), dtype=torch.float64).square()
        codes[part] = kept.to(torch.int8)
        scales[part] = scale[:, 0]
        return float(error), clipped

    errors, clipped = zip(*map_rows(quantize, rows, columns), strict=True)
    return QuantizedArrays(codes, scales, None, sum(errors), sum(clipped))


def _search(weight: torch.Tensor) -> torch.Tensor:
    """Scale [rows, 1] for float32 [rows, K].

    For given codes y the best scale is <x, y> / <y, y>, which leaves the squared error <x, x> - <x, y>^2 / <y, y>: the
    candidate with the largest <x, y>^2 / <y, y> wins.
    """
    unit = weight.abs().amax(1, keepdim=True) / _LIMIT
    empty = unit < _TINY
    unit[empty] = 1.0
    x = weight / unit
    codes, product = torch.empty_like(x), torch.empty_like(x)
    best_gain, best_scale = torch.zeros_like(unit), torch.ones_like(unit)
    for span in _SPANS:
        torch.mul(x, 1 / span, out=codes)
        codes.round_().clamp_(-_LIMIT, _LIMIT)
        cross = torch.mul(x, codes, out=product).sum(1, keepdim=True)
        norm = torch.mul(codes, codes, out=product).sum(1, keepdim=True).clamp_(min=1)
        scale = cross / norm
        gain = cross * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
    best_scale *= unit
    best_scale[empty] = 1.0
    return best_scale
