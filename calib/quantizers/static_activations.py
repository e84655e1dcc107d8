"""Static activation scales: one int8 scale for all inputs of a layer, chosen by the error of the layer's output.

A scale that fits most tokens clips the few whose activations are far larger; a scale that fits those leaves few codes
to the others. Each token's error is taken relative to its own output, so that large tokens do not outweigh all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.formats.fake_quant import fake_quantize_static
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize as quantize_weight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantizers.calibration import Calibration, kept_form
from edgekiln.calib.recipe import Override
from edgekiln.sources.base import WeightReader

_INT8_MAX = 127
# Candidates for the share of the largest magnitude that code 127 represents, half an octave apart.
_SHARES = tuple(2 ** (-i / 2) for i in range(17))
_SMALLEST = 1e-30
# Largest relative squared error of the output. 35 of SmolLM2-135M's 210 layers exceed it and keep a scale per token;
# with 5e-3 perplexity was 4% higher on a small sample.
_MAX_ERROR = 2e-3
_STATIC = Scheme(8, None, True, "int8-static")
_NAMES_IN_NOTE = 6


@dataclass(frozen=True)
class StaticScale:
    """A static activation scale and its effect.

    Attributes:
        scale: the value of one step of the int8 codes.
        clipped: share of the elements that are clipped.
        error: squared error of the output relative to its squares, over all tokens.
    """

    scale: float
    clipped: float
    error: float

    @property
    def fits(self) -> bool:
        """Whether one scale for all tokens is accurate enough."""
        return self.error <= _MAX_ERROR


def quantize(calibration: Calibration) -> None:
    """Choose static scales for the layers whose scheme has static activations; see `Quantizer`.

    Layers that read the same tensor share its scale. Layers whose output error would be too large, and layers that did
    not run on the calibration data, get one scale per token instead, by an override and with a note for the user.
    """
    weights, inputs = calibration.source.weights, calibration.inputs()
    groups: dict[int, list[str]] = {}
    unfit, unseen = [], []
    for name in calibration.layers:
        if calibration.planned(name) != name:
            continue  # experts, whose inputs always get one scale a token
        spec = calibration.recipe.spec(name)
        if spec is None or spec.activation != "int8-static" or _has_scale(weights.prequantized(f"{name}.weight")):
            continue
        if name in inputs:
            groups.setdefault(id(inputs[name]), []).append(name)
        else:
            unseen.append(name)
    found = {}
    for names in groups.values():
        modules = [calibration.model.get_submodule(name) for name in names]
        choice = choose_scale(inputs[names[0]], [matrix(module) for module in modules])
        if not choice.fits:
            unfit += names
            continue
        for name, module in zip(names, modules, strict=True):
            read = partial(_read, weights, f"{name}.weight", isinstance(module, Conv1D), choice)
            found[f"{name}.weight"] = PrequantizedWeight(_STATIC, read)
    calibration.replace_weights(quantized=found)
    calibration.add_overrides(Override(match=name, activation="int8-per-token") for name in (*unfit, *unseen))
    calibration.add_notes(
        f"{len(names)} layers {reason} and get one scale per token: {', '.join(names[:_NAMES_IN_NOTE])}"
        + (f" and {len(names) - _NAMES_IN_NOTE} more" if len(names) > _NAMES_IN_NOTE else "")
        for names, reason in (
            (unfit, "do not fit a static activation scale"),
            (unseen, "did not run on the calibration data"),
        )
        if names
    )


def choose_scale(inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> StaticScale:
    """Choose the scale of a tensor.

    Args:
        inputs: float [T, K], a sample of its tokens.
        weights: float [N, K] of each layer that reads it.
    """
    inputs = inputs.float()
    # Errors of different input channels are taken as independent, so that no candidate needs a matrix multiplication.
    columns = torch.cat([weight.detach().float() for weight in weights]).square().sum(0)
    outputs = torch.full((len(inputs),), _SMALLEST)
    for weight in weights:
        outputs += (inputs @ weight.detach().float().t()).square().sum(1)

    def errors(scale: float) -> torch.Tensor:
        return (fake_quantize_static(inputs, scale) - inputs).square() @ columns

    largest = max(float(inputs.abs().max()), _SMALLEST)
    scales = [largest * share / _INT8_MAX for share in _SHARES]
    scale = min(scales, key=lambda scale: float((errors(scale) / outputs).mean()))
    clipped = float((inputs.abs() > (_INT8_MAX + 0.5) * scale).float().mean())
    return StaticScale(scale, clipped, float(errors(scale).sum() / outputs.sum()))


def _has_scale(weight: PrequantizedWeight | None) -> bool:
    return weight is not None and weight.matching(_STATIC) is not None


def _read(weights: WeightReader, name: str, transposed: bool, choice: StaticScale) -> QuantizedWeight:
    arrived = weights.prequantized(name)
    form = kept_form(arrived, _STATIC) if arrived else None
    if form is None:
        weight = weights.read(name)
        quantized = quantize_weight(weight.t().contiguous() if transposed else weight, _STATIC)
    else:
        quantized = form.read()
    return replace(quantized, scheme=_STATIC, input_scale=choice.scale, input_clipped=choice.clipped)
