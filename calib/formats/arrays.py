"""What the quantizers hand to `quantize`."""

from typing import NamedTuple

import torch


class QuantizedArrays(NamedTuple):
    """Codes, scales and zero points as QuantizedWeight has them, with the sums its statistics are made of."""

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    squared_error: float
    clipped: int
