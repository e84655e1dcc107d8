"""The result of a quantization function."""

from typing import NamedTuple

import torch


class QuantizedArrays(NamedTuple):
    """Codes, scales and zero points as in `QuantizedWeight`, with the sums that its statistics are computed from.

    Attributes:
        codes, scales, zero_points: see `QuantizedWeight`.
        squared_error: sum of squared differences from the float weight.
        clipped: number of weights that were clipped.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    squared_error: float
    clipped: int
