"""What int8 layers see of their input."""

import torch

from edgekiln.calib.formats.weight import QuantizedWeight

_INT8 = 127
_TINY = 1e-30


def as_seen(x: torch.Tensor, layer: QuantizedWeight) -> torch.Tensor:
    """float [..., K] as the layer treats it at run time: as it is, rounded a row at a time, or with its static scale.

    Raises:
        ValueError: the layer's scheme has a static scale, and the layer has none.
    """
    if layer.scheme.activation == "int8-per-token":
        return round_rows(x)
    if layer.scheme.activation == "int8-static":
        if layer.input_scale is None:
            raise ValueError("a layer with a static input has no scale for it")
        return round_static(x, layer.input_scale)
    return x


def round_rows(x: torch.Tensor) -> torch.Tensor:
    """Each row rounded to 127 steps of its largest magnitude either way."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=_TINY)
    return (x / largest * _INT8).round() / _INT8 * largest


def round_static(x: torch.Tensor, scale: float) -> torch.Tensor:
    """All rounded to steps of `scale`, and cut off where int8 ends."""
    return (x / scale).round().clamp(-_INT8 - 1, _INT8) * scale
