"""Scales in float16, which kernels read in half the bytes of float32."""

import torch

# Largest relative rounding error of a normal float16, which has 11 significant bits.
_MAX_ERROR = 2.0**-11


def round_to_float16(scales: torch.Tensor) -> torch.Tensor:
    """Round scales to float16 if all of them keep their precision; kernels take the scales of a weight in one type.

    Args:
        scales: positive float32, any shape.

    Returns:
        float32 of that shape. `scales` itself if one would change by more than 2^-11 of its value, as values beyond
        the range of float16 and most subnormal ones do.
    """
    rounded = scales.half().float()
    near = (rounded - scales).abs_() <= scales * _MAX_ERROR
    return rounded if bool(near.all()) else scales
