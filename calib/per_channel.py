"""Symmetric int8 quantization with one scale a row that minimises squared error."""

import torch

from edgekiln.calib.arrays import QuantizedArrays

_LIMIT = 127
# Share of max|w| that code 127 stands for.
_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
_CHUNK = 1 << 19
_TINY = 1e-30


def quantize_rows(weight: torch.Tensor) -> QuantizedArrays:
    """Quantize float [N, K] to int8 codes in -127..127 and float32 [N] scales.

    Each candidate range is scored with the best scale for its codes, <x, y> / <y, y>, which leaves the squared error
    <x, x> - <x, y>^2 / <y, y>.
    """
    rows, columns = weight.shape
    codes = torch.empty((rows, columns), dtype=torch.int8)
    scales = torch.empty(rows, dtype=torch.float32)
    error, clipped = 0.0, 0
    rows_at_once = max(1, _CHUNK // columns)
    for start in range(0, rows, rows_at_once):
        part = slice(start, start + rows_at_once)
        x = weight[part].to(torch.float32)
        scale = _search(x)
        steps = (x / scale).round_()
        kept = steps.clamp(-_LIMIT, _LIMIT)
        clipped += int((steps != kept).sum())
        error += float((kept * scale).sub_(x).square_().sum(dtype=torch.float64))
        codes[part] = kept.to(torch.int8)
        scales[part] = scale[:, 0]
    return QuantizedArrays(codes, scales, None, error, clipped)


def _search(x: torch.Tensor) -> torch.Tensor:
    """Scale float32 [rows, 1] of each row of `x`."""
    unit = x.abs().amax(1, keepdim=True) / _LIMIT
    empty = unit < _TINY
    unit[empty] = 1.0
    x = x / unit
    steps, product = torch.empty_like(x), torch.empty_like(x)
    best_gain, best_scale = torch.zeros_like(unit), torch.ones_like(unit)
    for span in _RANGES:
        torch.mul(x, 1 / span, out=steps)
        steps.round_().clamp_(-_LIMIT, _LIMIT)
        cross = torch.mul(x, steps, out=product).sum(1, keepdim=True)
        norm = torch.mul(steps, steps, out=product).sum(1, keepdim=True).clamp_(min=1)
        scale = cross / norm
        gain = cross * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
    best_scale *= unit
    best_scale[empty] = 1.0
    return best_scale
