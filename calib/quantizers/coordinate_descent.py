"""Better codes and scales for a quantized weight, in the metric of what its layer reads.

GPTQ goes through the columns once: each is rounded before the later ones are known. Here columns are visited again,
each code moving to the best value given all others (coordinate descent, as in QuantEase by Behdin et al. 2023), and
then all scales of a row to their best for its codes, by least squares. Neither step can raise the error.
"""

import numpy as np
import torch

from edgekiln.calib.formats.row_parallel import map_rows
from edgekiln.calib.formats.weight import QuantizedWeight

_ROUNDS = 2
# Share of the mean square that is added to each channel's, as GPTQ does: what calibration never saw still counts.
_DAMPING = 0.01
# How firmly scales are held where they are; keeps the system solvable where groups act alike.
_RIDGE = 1e-3
_COLUMNS = 64


def refine(weight: torch.Tensor, quantized: QuantizedWeight, moments: torch.Tensor) -> QuantizedWeight:
    """Lower the squared error of a layer's output, which is tr((Q - W) M (Q - W)^T).

    Args:
        weight: float [N, K], W.
        quantized: what was made of it, in groups of its columns, without offsets, order or codebook.
        moments: float32 [K, K], M: the sum of x x^T over what the layer read.
    """
    scheme = quantized.scheme
    assert scheme.group_size is not None
    damped = moments.clone()
    mean = damped.diagonal().mean()
    if not mean > 0:
        return quantized
    damped.diagonal().add_(_DAMPING * mean)
    exact = weight.detach().float()
    rows, size = len(exact), scheme.group_size
    top = (1 << scheme.bits) - 1
    middle = torch.full((rows, exact.shape[1] // size), (top + 1) // 2, dtype=torch.float32)
    zero = middle if quantized.zero_points is None else torch.from_numpy(quantized.zero_points).float()
    # Steps from the zero point; a code is between 0 and `top`.
    steps = torch.from_numpy(quantized.codes).float() - zero.repeat_interleave(size, 1)
    scales = torch.from_numpy(quantized.scales).clone()

    def improve(part: slice) -> None:
        for _ in range(_ROUNDS):
            wide = scales[part].repeat_interleave(size, 1)
            steps[part] = _visit_columns(exact[part], steps[part], wide, damped, zero[part], top)
            scales[part] = _fit_scales(exact[part], steps[part], scales[part], damped)

    map_rows(improve, *exact.shape)
    return QuantizedWeight(
        scheme=scheme,
        codes=(steps + zero.repeat_interleave(size, 1)).numpy().astype(np.uint8),
        scales=scales.numpy(),
        zero_points=quantized.zero_points,
        relative_error=weight_error(steps * scales.repeat_interleave(size, 1), exact),
        clipped=quantized.clipped,
    )


def weight_error(values: torch.Tensor, exact: torch.Tensor) -> float:
    """Squared error of a float weight over the squares of what it stands for; any one shape."""
    return float((values - exact).square().sum() / exact.square().sum().clamp(min=1e-30))


def _visit_columns(
    weight: torch.Tensor, steps: torch.Tensor, scales: torch.Tensor, moments: torch.Tensor, zero: torch.Tensor, top: int
) -> torch.Tensor:
    """Move each code once to its best value given the others; all but `moments` and `zero` are [N, K]."""
    columns = weight.shape[1]
    size = columns // zero.shape[1]
    # Columns as rows: a column is then contiguous.
    steps, scales, low = steps.t().contiguous(), scales.t().contiguous(), -zero.t().contiguous()
    slope = moments @ (steps * scales - weight.t())
    curvature = moments.diagonal().tolist()
    for start in range(0, columns, _COLUMNS):
        part = slice(start, min(start + _COLUMNS, columns))
        inside, local = moments[part, part], slope[part].clone()
        moved = torch.zeros_like(local)
        for row in range(len(local)):
            column = start + row
            floor = low[column // size]
            wanted = steps[column] - local[row] / (scales[column] * curvature[column])
            best = torch.clamp(wanted.round_(), floor, floor + top)
            torch.mul(best - steps[column], scales[column], out=moved[row])
            steps[column] = best
            local.addr_(inside[row], moved[row])
        slope.addmm_(moments[:, part], moved)
    return steps.t().contiguous()


def _fit_scales(weight: torch.Tensor, steps: torch.Tensor, scales: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """The scales [N, G] that suit `steps` [N, K] best; a row where one would not be positive keeps its own."""
    rows, columns = steps.shape
    groups = scales.shape[1]
    size = columns // groups
    own = steps.reshape(rows, groups, size)
    right = (own * (weight @ moments).reshape(rows, groups, size)).sum(-1)
    system = torch.empty(rows, groups, groups)
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        seen = (own[:, group] @ moments[part]).reshape(rows, groups, size)
        torch.sum(seen * own, -1, out=system[:, group])
    diagonal = system.diagonal(dim1=1, dim2=2)
    hold = _RIDGE * torch.maximum(diagonal, 1e-3 * diagonal.mean(1, keepdim=True)).clamp(min=1e-30)
    found = torch.linalg.solve(system + torch.diag_embed(hold), right + hold * scales)
    return torch.where((found > 0).all(1, keepdim=True), found, scales)
