"""Scales that 16 bits hold: kernels and other runtimes read half as much for them, and weights lose nothing."""

import torch

# The most that a normal number of 11 significant bits moves when it is rounded. Smaller ones move by more.
_LARGEST_MOVE = 2.0**-11


def binary16(scales: torch.Tensor) -> torch.Tensor:
    """Round to IEEE 754 binary16, all or none: kernels take a weight's scales in one type.

    Args:
        scales: positive float32, any shape.

    Returns:
        float32 of that shape; `scales` itself where one would move by more than 2^-11 of its value, as it does beyond
        binary16's range and, mostly, among its subnormal numbers.
    """
    rounded = scales.half().float()
    near = (rounded - scales).abs_() <= scales * _LARGEST_MOVE
    return rounded if bool(near.all()) else scales
