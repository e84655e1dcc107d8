"""Fake quantization: round activations as an int8 layer does at run time, in floating point."""

import torch

from edgekiln.calib.formats.weight import QuantizedWeight

_INT8_MAX = 127
_SMALLEST = 1e-30


def fake_quantize(x: torch.Tensor, layer: QuantizedWeight) -> torch.Tensor:
    """Round the input of a layer, float [..., K], by its scheme's activation: none, per token, or with a static scale.

    Raises:
        ValueError: the scheme has static activations and the layer has no static scale.
    """
    if layer.scheme.activation == "int8-per-token":
        return fake_quantize_per_token(x)
    if layer.scheme.activation == "int8-static":
        if layer.input_scale is None:
            raise ValueError("a layer with static activations has no activation scale")
        return fake_quantize_static(x, layer.input_scale)
    return x


def fake_quantize_per_token(x: torch.Tensor) -> torch.Tensor:
    """Round float [..., K] to int8 with one scale per token, so that code 127 is the token's largest magnitude."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
    return (x / largest * _INT8_MAX).round() / _INT8_MAX * largest


def fake_quantize_static(x: torch.Tensor, scale: float) -> torch.Tensor:
    """Round floats of any shape to multiples of `scale`, clipped to the range of int8."""
    return (x / scale).round().clamp(-_INT8_MAX - 1, _INT8_MAX) * scale
