"""Asymmetric block quantization that minimises squared error: float scale, integer zero point, a pair a block."""

import torch

from edgekiln.calib.arrays import QuantizedArrays

# (range, place) of the starting points: the codes span `range` times the block's min-max range, and the code grid is
# shifted by `place` steps from where it would sit centred on that range. Greedily selected on real and Gaussian
# weights: each entry is the one that lowered the error most given those before it.
_STARTS = {4: ((0.96, 0.0), (1.15, -0.5), (1.02, 0.0), (0.92, 0.0), (1.1, -0.5), (0.85, 0.0)), 8: ((1.0, 0.0),)}
_ROUNDS = {4: 2, 8: 1}
# Elements worked on at once: few enough for the buffers to stay in cache, enough to occupy every thread.
_CHUNK = 1 << 19
_TINY = 1e-30


def quantize_blocks(weight: torch.Tensor, bits: int, group_size: int) -> QuantizedArrays:
    """Quantize float [N, K] in groups of `group_size` consecutive columns, which must divide K, to 4 or 8 bits."""
    rows, columns = weight.shape
    groups = columns // group_size
    codes = torch.empty((rows, columns), dtype=torch.uint8)
    scales = torch.empty((rows, groups), dtype=torch.float32)
    zero_points = torch.empty((rows, groups), dtype=torch.uint8)
    levels = (1 << bits) - 1
    error, clipped = 0.0, 0
    rows_at_once = max(1, _CHUNK // columns)
    for start in range(0, rows, rows_at_once):
        part = slice(start, start + rows_at_once)
        # Blocks as columns: reductions over a block then run along the vector lanes.
        x = weight[part].to(torch.float32).reshape(-1, group_size).t().contiguous()
        scale, zero = _search(x, levels, _STARTS[bits], _ROUNDS[bits])
        steps = (x / scale).round_()
        kept = torch.clamp(steps, -zero, levels - zero)
        clipped += int((steps != kept).sum())
        error += float((kept * scale).sub_(x).square_().sum(dtype=torch.float64))
        codes[part] = kept.add_(zero).to(torch.uint8).t().reshape(-1, columns)
        scales[part] = scale.reshape(-1, groups)
        zero_points[part] = zero.to(torch.uint8).reshape(-1, groups)
    return QuantizedArrays(codes, scales, zero_points, error, clipped)


def _search(
    blocks: torch.Tensor, levels: int, starts: tuple[tuple[float, float], ...], rounds: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (float32 [blocks], zero points whole) of each column of float32 [group_size, blocks].

    For given steps y = code - zero_point the best scale is <x, y> / <y, y>, which leaves the squared error
    <x, x> - <x, y>^2 / <y, y>. So a starting point costs one rounding and two dot products, and only the gain
    <x, y>^2 / <y, y> is compared. Refinement alternates exact minimisations: codes for (scale, zero point), then zero
    point and scale for codes; neither can raise the error.
    """
    low = blocks.amin(0).clamp_(max=0)
    high = blocks.amax(0).clamp_(min=0)
    unit = high / levels - low / levels
    empty = unit < _TINY
    unit[empty] = 1.0
    # In units of the min-max step, so that a start's scale is one number for all blocks.
    x = blocks / unit
    low /= unit
    steps, product = torch.empty_like(x), torch.empty_like(x)
    best_gain = torch.zeros_like(unit)
    best_scale, best_zero = torch.ones_like(unit), torch.zeros_like(unit)
    for span, place in starts:
        zero = (-low / span + (place - 0.5 * levels * (1 / span - 1))).round_().clamp_(0, levels)
        torch.mul(x, 1 / span, out=steps)
        cross, norm = _round_and_correlate(x, steps, zero, levels, product)
        scale = cross / norm
        gain = cross * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)
    total = x.sum(0)
    for _ in range(rounds):
        torch.div(x, best_scale, out=steps)
        cross, norm = _round_and_correlate(x, steps, best_zero, levels, product)
        best_scale, best_zero = _refit(cross, norm, total, steps.sum(0), best_zero, levels, len(x))
    best_scale *= unit
    best_scale[empty] = 1.0
    return best_scale, best_zero


def _round_and_correlate(
    x: torch.Tensor, steps: torch.Tensor, zero: torch.Tensor, levels: int, product: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round `steps` to the codes' range in place; return <x, steps> and <steps, steps> of each column."""
    steps.round_()
    torch.clamp(steps, -zero, levels - zero, out=steps)
    cross = torch.mul(x, steps, out=product).sum(0)
    norm = torch.mul(steps, steps, out=product).sum(0).clamp_(min=1)
    return cross, norm


def _refit(
    cross: torch.Tensor,
    norm: torch.Tensor,
    total: torch.Tensor,
    total_steps: torch.Tensor,
    zero: torch.Tensor,
    levels: int,
    group_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best scale and whole zero point for fixed codes.

    Moving the zero point by -d moves every step by d; the gain (cross + d total)^2 / (norm + 2 d total_steps + G d^2)
    has one maximum in d, so the whole number on either side of it is compared with staying.
    """
    slope = cross * group_size - total * total_steps
    centre = (total * norm - cross * total_steps) / torch.where(slope.abs() < _TINY, 1.0, slope)
    best_gain = cross * cross / norm
    best_scale, best_zero = cross / norm, zero
    for shift in (centre.floor(), centre.ceil()):
        moved = (zero - shift).clamp_(0, levels)
        d = zero - moved
        new_cross = cross + d * total
        new_norm = (norm + d * (2 * total_steps + group_size * d)).clamp_(min=1)
        new_gain = new_cross * new_cross / new_norm
        better = (new_gain > best_gain) & (new_cross > 0)
        best_gain = torch.where(better, new_gain, best_gain)
        best_scale = torch.where(better, new_cross / new_norm, best_scale)
        best_zero = torch.where(better, moved, best_zero)
    return best_scale, best_zero
