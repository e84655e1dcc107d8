"""One scale for all that a layer reads, chosen by what rounding with it does to the layer's output.

A scale small enough for the tokens that make up a text cuts off the few that are far larger, and one that holds those
leaves the others few codes. Each token counts with the error of its own output relative to that output, so that neither
kind is given up for the other because of its size alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.formats.fake_quant import round_static
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.sources.base import WeightReader

_INT8 = 127
# Candidates for the share of the largest magnitude that code 127 stands for, half an octave apart.
_SHARES = tuple(2 ** (-i / 2) for i in range(17))
_TINY = 1e-30
# SmolLM2-135M keeps 35 of 210 layers at a scale a token by it; by 5e-3 perplexity was 4% higher on a small sample.
_BEARABLE = 2e-3
_STATIC = Scheme(8, None, True, "int8-static")
_NAMED = 6


@dataclass(frozen=True)
class StaticInput:
    """How a tensor is rounded.

    Attributes:
        scale: one step.
        clipped: share of its elements that are cut off.
        error: squared error of the output over its squares, all tokens together.
    """

    scale: float
    clipped: float
    error: float

    @property
    def fits(self) -> bool:
        """Whether one scale does well enough."""
        return self.error <= _BEARABLE


def static_input(inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> StaticInput:
    """Choose the scale of a tensor.

    Args:
        inputs: float [T, K], a sample of its tokens.
        weights: float [N, K] of each layer that reads it.
    """
    inputs = inputs.float()
    # The output's error, as if errors of different inputs were independent: no product of matrices a candidate.
    columns = torch.cat([weight.detach().float() for weight in weights]).square().sum(0)
    outputs = torch.full((len(inputs),), _TINY)
    for weight in weights:
        outputs += (inputs @ weight.detach().float().t()).square().sum(1)

    def errors(scale: float) -> torch.Tensor:
        return (round_static(inputs, scale) - inputs).square() @ columns

    largest = max(float(inputs.abs().max()), _TINY)
    scales = [largest * share / _INT8 for share in _SHARES]
    scale = min(scales, key=lambda scale: float((errors(scale) / outputs).mean()))
    clipped = float((inputs.abs() > (_INT8 + 0.5) * scale).float().mean())
    return StaticInput(scale, clipped, float(errors(scale).sum() / outputs.sum()))


def static_weights(
    model: PreTrainedModel,
    recipe: Recipe,
    layers: Sequence[str],
    weights: WeightReader,
    inputs: Mapping[str, torch.Tensor],
) -> tuple[dict[str, PrequantizedWeight], Recipe, list[str]]:
    """The weights, by name, of layers that the recipe gives a static input, with its scale.

    Layers that read one tensor share its scale. Those whose output would suffer too much, and those never seen at work,
    get a scale a token: the recipe comes back with that, and with notes for the user.

    Args:
        model: the model, smoothed.
        recipe: what each layer gets.
        layers: names of its linear layers.
        weights: what `model` was smoothed to.
        inputs: what layers read, as `sample_inputs` gives it.
    """
    groups: dict[int, list[str]] = {}
    unfit, unseen = [], []
    for name in layers:
        spec = recipe.spec(name)
        if spec is None or spec.activation != "int8-static" or _has_scale(weights.stored(f"{name}.weight")):
            continue
        if name in inputs:
            groups.setdefault(id(inputs[name]), []).append(name)
        else:
            unseen.append(name)
    found = {}
    for names in groups.values():
        modules = [model.get_submodule(name) for name in names]
        choice = static_input(inputs[names[0]], [matrix(module) for module in modules])
        if not choice.fits:
            unfit += names
            continue
        for name, module in zip(names, modules, strict=True):
            read = partial(_read, weights, f"{name}.weight", isinstance(module, Conv1D), choice)
            found[f"{name}.weight"] = PrequantizedWeight(_STATIC, read)
    notes = [
        f"the input of {len(names)} layers {why} and gets a scale a token: {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for names, why in ((unfit, "does not fit one scale"), (unseen, "was not seen on the calibration data"))
        if names
    ]
    overrides = tuple(Override(match=name, activation="int8-per-token") for name in (*unfit, *unseen))
    return found, recipe.model_copy(update={"overrides": (*recipe.overrides, *overrides)}), notes


def kept_form(stored: PrequantizedWeight, scheme: Scheme) -> PrequantizedWeight | None:
    """The form of a weight that arrives quantized which a layer that is to get `scheme` keeps the codes of."""
    form = stored.suiting(scheme)
    if form is None and scheme.activation == "int8-static":
        form = stored.suiting(replace(scheme, activation="int8-per-token"))
    return form


def _has_scale(stored: PrequantizedWeight | None) -> bool:
    return stored is not None and stored.suiting(_STATIC) is not None


def _read(weights: WeightReader, name: str, transposed: bool, choice: StaticInput) -> QuantizedWeight:
    stored = weights.stored(name)
    form = kept_form(stored, _STATIC) if stored else None
    if form is None:
        weight = weights.read(name)
        quantized = quantize(weight.t().contiguous() if transposed else weight, _STATIC)
    else:
        quantized = form.read()
    return replace(quantized, scheme=_STATIC, input_scale=choice.scale, input_clipped=choice.clipped)
