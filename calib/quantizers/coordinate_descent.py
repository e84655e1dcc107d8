"""Improve the codes and scales of a quantized weight by coordinate descent on the squared error of the layer's output.

GPTQ rounds each column once, before the later columns are rounded. Coordinate descent visits the columns again and
moves each code to its best value given all others, as in QuantEase (Behdin et al. 2023). Then the scales of each
output channel are fitted to the codes by least squares. Neither step can raise the error.
"""

import numpy as np
import torch

from edgekiln.calib.formats.channel_parallel import map_channels
from edgekiln.calib.formats.weight import QuantizedWeight

_ROUNDS = 2
# Added to the diagonal of X^T X, as a share of its mean, as in GPTQ: directions that calibration data lacks count too.
_DAMPING = 0.01
# Regularization of the least squares towards the current scales. Keeps the system solvable where groups are collinear.
_RIDGE = 1e-3
# Columns after which the gradient of the remaining columns is updated.
_COLUMN_BLOCK = 64


def coordinate_descent(weight: torch.Tensor, quantized: QuantizedWeight, moments: torch.Tensor) -> QuantizedWeight:
    """Lower tr((Q - W) M (Q - W)^T), the squared error of the layer's output.

    Args:
        weight: float [N, K], the weight W before quantization.
        quantized: the same weight in groups, without group biases, column order or codebook: Q when dequantized.
        moments: float32 [K, K], M = X^T X over the layer's inputs X.

    Returns:
        The weight with new codes and scales; `quantized` itself if the layer read only zeros.
    """
    scheme = quantized.scheme
    assert scheme.group_size is not None
    damped = moments.clone()
    mean = damped.diagonal().mean()
    if not mean > 0:
        return quantized
    damped.diagonal().add_(_DAMPING * mean)
    exact = weight.detach().float()
    n, size = len(exact), scheme.group_size
    top = (1 << scheme.bits) - 1
    middle = torch.full((n, exact.shape[1] // size), (top + 1) // 2, dtype=torch.float32)
    zero = middle if quantized.zero_points is None else torch.from_numpy(quantized.zero_points).float()
    # steps = code - zero_point, with codes in 0..top.
    steps = torch.from_numpy(quantized.codes).float() - zero.repeat_interleave(size, 1)
    scales = torch.from_numpy(quantized.scales).clone()

    def improve(part: slice) -> None:
        for _ in range(_ROUNDS):
            column_scales = scales[part].repeat_interleave(size, 1)
            steps[part] = _visit_columns(exact[part], steps[part], column_scales, damped, zero[part], top)
            scales[part] = _fit_scales(exact[part], steps[part], scales[part], damped)

    map_channels(improve, *exact.shape)
    return QuantizedWeight(
        scheme=scheme,
        codes=(steps + zero.repeat_interleave(size, 1)).numpy().astype(np.uint8),
        scales=scales.numpy(),
        zero_points=quantized.zero_points,
        relative_error=weight_error(steps * scales.repeat_interleave(size, 1), exact),
        clipped=quantized.clipped,
    )


def weight_error(values: torch.Tensor, exact: torch.Tensor) -> float:
    """Squared error of `values` relative to the squares of `exact`, both float of one shape."""
    return float((values - exact).square().sum() / exact.square().sum().clamp(min=1e-30))


def _visit_columns(
    weight: torch.Tensor, steps: torch.Tensor, scales: torch.Tensor, moments: torch.Tensor, zero: torch.Tensor, top: int
) -> torch.Tensor:
    """Move each code once to its best value given the others.

    Args:
        weight, steps, scales: float [N, K].
        moments: float [K, K].
        zero: float [N, G].
        top: largest code.

    Returns:
        New steps, [N, K].
    """
    columns = weight.shape[1]
    size = columns // zero.shape[1]
    # Transposed, so that a column of the weight is contiguous.
    steps, scales, low = steps.t().contiguous(), scales.t().contiguous(), -zero.t().contiguous()
    gradient = moments @ (steps * scales - weight.t())
    curvature = moments.diagonal().tolist()
    for start in range(0, columns, _COLUMN_BLOCK):
        part = slice(start, min(start + _COLUMN_BLOCK, columns))
        inside, local = moments[part, part], gradient[part].clone()
        moved = torch.zeros_like(local)
        for index in range(len(local)):
            column = start + index
            floor = low[column // size]
            wanted = steps[column] - local[index] / (scales[column] * curvature[column])
            best = torch.clamp(wanted.round_(), floor, floor + top)
            torch.mul(best - steps[column], scales[column], out=moved[index])
            steps[column] = best
            local.addr_(inside[index], moved[index])
        gradient.addmm_(moments[:, part], moved)
    return steps.t().contiguous()


def _fit_scales(weight: torch.Tensor, steps: torch.Tensor, scales: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Fit scales [N, G] to `steps` [N, K] by least squares; a channel keeps its scales if one is not positive."""
    n, k = steps.shape
    groups = scales.shape[1]
    size = k // groups
    grouped = steps.reshape(n, groups, size)
    right = (grouped * (weight @ moments).reshape(n, groups, size)).sum(-1)
    system = torch.empty(n, groups, groups)
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        weighted = (grouped[:, group] @ moments[part]).reshape(n, groups, size)
        torch.sum(weighted * grouped, -1, out=system[:, group])
    diagonal = system.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * torch.maximum(diagonal, 1e-3 * diagonal.mean(1, keepdim=True)).clamp(min=1e-30)
    found = torch.linalg.solve(system + torch.diag_embed(ridge), right + ridge * scales)
    return torch.where((found > 0).all(1, keepdim=True), found, scales)
