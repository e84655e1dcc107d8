"""Scales that 16 bits hold: kernels and other runtimes read half as much for them, and weights lose nothing."""

import torch

# Smaller numbers have fewer than 11 significant bits.
_SMALLEST_NORMAL = 2.0**-14
_LARGEST = 65504.0


def binary16(scales: torch.Tensor) -> torch.Tensor:
    """Round positive float32 `scales` to IEEE 754 binary16, in float32; as they are if one is beyond its range."""
    if not scales.numel() or scales.min() < _SMALLEST_NORMAL or scales.max() > _LARGEST:
        return scales
    return scales.half().float()
