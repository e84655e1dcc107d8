"""From a model source and calibration data to a source whose weights are smoothed or quantized already."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.activation_stats import observe
from edgekiln.calib.analysis.layer_groups import Readers, find_readers, matrix
from edgekiln.calib.analysis.output_error import sample_inputs
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.quantization_plan import quantizable
from edgekiln.calib.quantizers.smoothquant import smooth
from edgekiln.calib.quantizers.static_activations import kept_form, static_weights
from edgekiln.calib.recipe import Recipe
from edgekiln.sources.base import ModelSource, WeightReader

Progress = Callable[[str, float], None]


class CalibratedWeights:
    """A source's weights, some of them replaced by what calibration made of them; see `WeightReader`."""

    def __init__(
        self, weights: WeightReader, floats: dict[str, torch.Tensor], quantized: dict[str, PrequantizedWeight]
    ) -> None:
        self.nbytes = weights.nbytes
        self._weights = weights
        self._floats = floats
        self._quantized = quantized

    def keys(self) -> Iterable[str]:
        return self._weights.keys()

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def read(self, name: str) -> torch.Tensor:
        return self._floats[name] if name in self._floats else self._weights.read(name)

    def stored(self, name: str) -> PrequantizedWeight | None:
        """What calibration quantized; a weight that it replaced in floating point has lost the checkpoint's grid."""
        if name in self._quantized or name in self._floats:
            return self._quantized.get(name)
        return self._weights.stored(name)


def calibrate(source: ModelSource, recipe: Recipe, windows: Windows, progress: Progress) -> tuple[ModelSource, Recipe]:
    """Load the model in float32 and prepare its weights for `recipe`.

    The recipe comes back with what calibration found unfit for a static scale at a scale a token.

    Args:
        source: the model.
        recipe: what each layer gets; its smoothing, its method and its static scales are carried out here.
        windows: int64 [windows, length] tokens.
        progress: called with the step and how much of it is done.

    Raises:
        EdgekilnError: the recipe's method needs a library that is not installed.
        SourceError: a weight is damaged.
    """
    progress("loading model", 0.0)
    model = load_model(source)
    notes: list[str] = []
    layers = linear_layers(model)
    kept = _kept(source.weights, recipe, layers)
    floats: dict[str, torch.Tensor] = {}
    if recipe.smooth is not None:
        smoothed, notes = _smooth(model, recipe, layers, kept, windows, progress)
        floats = weights_of(model, smoothed)
    inputs = sample_inputs(model, layers, windows)
    quantized: dict[str, PrequantizedWeight] = {}
    if recipe.method != "nearest":
        from edgekiln.calib.quantizers.compressor import compress

        schemes = {
            name: scheme
            for name, columns in layers.items()
            if name not in kept and (scheme := recipe.scheme(name, columns))
        }
        quantized, moved = compress(model, schemes, recipe.method, windows, progress)
        floats |= moved
        if moved:
            inputs = sample_inputs(model, layers, windows)
    weights = CalibratedWeights(source.weights, floats, quantized)
    static, recipe, found = static_weights(model, recipe, [*layers], weights, inputs)
    weights = CalibratedWeights(weights, {}, static)
    return replace(source, weights=weights, notes=(*source.notes, *notes, *found), layer_inputs=inputs), recipe


def weights_of(model: PreTrainedModel, modules: Iterable[str]) -> dict[str, torch.Tensor]:
    """The parameters of the named modules, by their names in the model."""
    return {
        f"{name}.{parameter}": tensor.detach()
        for name in modules
        for parameter, tensor in model.get_submodule(name).named_parameters(recurse=False)
    }


def linear_layers(model: PreTrainedModel) -> dict[str, int]:
    """Names of the linear layers, but for the head, with the number of their inputs."""
    apart = (model.get_input_embeddings(), model.get_output_embeddings())
    found = {}
    for name in quantizable(model):
        module = model.get_submodule(name)
        if module not in apart:
            found[name] = matrix(module).shape[1]
    return found


def _kept(weights: WeightReader, recipe: Recipe, layers: dict[str, int]) -> set[str]:
    """Layers that keep the codes they arrive with, and so must not be changed."""
    kept = set()
    for name, columns in layers.items():
        stored = weights.stored(f"{name}.weight")
        if stored is not None and (scheme := recipe.scheme(name, columns)) and kept_form(stored, scheme):
            kept.add(name)
    return kept


def _smooth(
    model: PreTrainedModel,
    recipe: Recipe,
    layers: dict[str, int],
    kept: set[str],
    windows: Windows,
    progress: Progress,
) -> tuple[set[str], list[str]]:
    """Smooth what layers with 8-bit activations read, in place; the modules changed, and notes for the user."""
    assert recipe.smooth is not None
    eight = [name for name in layers if name not in kept and (spec := recipe.spec(name)) and spec.activation != "none"]
    groups = [group for group in find_readers(model, list(layers)) if set(group.layers) <= set(eight)]
    able = [group for group in groups if group.producer is not None and group.producer.name not in kept]
    if not able:
        return set(), ["no layer's input can be smoothed in this model"] if eight else []
    # A producer that is a reader too must have its rows before its columns are looked at.
    able.sort(key=lambda group: not _is_reader(group, layers))
    seen = observe(model, able, windows, lambda done: progress("calibrating", done))
    changed: set[str] = set()
    for group, channels in zip(able, seen, strict=True):
        if channels is not None and group.producer is not None:
            smooth(model, group, channels, recipe.smooth)
            changed |= {*group.layers, group.producer.name}
    left = len(eight) - sum(len(group.layers) for group in able)
    return changed, [f"the input of {left} of {len(eight)} layers cannot be smoothed"] if left else []


def _is_reader(group: Readers, layers: dict[str, int]) -> bool:
    return group.producer is not None and group.producer.name in layers
