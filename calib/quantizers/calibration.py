"""The state that quantizers read and change, and a source whose weights they have replaced."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.analysis.output_error import sample_inputs
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.expert_linears import ExpertLinears, add_expert_linears, expert_linears, planned_layer
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize_experts import joined
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.limits import Limits
from edgekiln.calib.moe import ExpertWeight, expert_weights, in_router
from edgekiln.calib.quantization_plan import quantizable
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.errors import UnsupportedModelError
from edgekiln.progress import Progress
from edgekiln.sources.base import ModelSource, WeightReader


class Calibration:
    """The state that quantizers read and change, in turn.

    Attributes:
        source: the model, with the weights that quantizers have made so far.
        recipe: the scheme of each layer; quantizers add overrides to it.
        limits: how much worse than the float32 model the engine may be.
        windows: int64 [windows, length] calibration tokens; [0, 0] where no quantizer needs any.
        progress: to be called with the step and how much of it is done.
    """

    def __init__(
        self, source: ModelSource, recipe: Recipe, limits: Limits, windows: Windows, progress: Progress
    ) -> None:
        self.source = source
        self.recipe = recipe
        self.limits = limits
        self.windows = windows
        self.progress = progress
        self._model: PreTrainedModel | None = None
        self._experts: dict[str, ExpertLinears] = {}
        self._layers: dict[str, int] | None = None
        self._kept: set[str] | None = None
        self._inputs: dict[str, torch.Tensor] | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model in float32, loaded at first use. Quantizers change its weights in place.

        Each expert has linear layers; see `expert_linears`.
        """
        if self._model is None:
            self.progress("loading model", 0.0)
            self._model = load_model(self.source)
            add_expert_linears(self._model)
            self._experts = expert_linears(self._model)
        return self._model

    @property
    def layers(self) -> dict[str, int]:
        """Names of the linear layers, except the head, with the number of their inputs. Each expert is a layer."""
        if self._layers is None:
            self._layers = linear_layers(self.model)
        return self._layers

    def planned(self, name: str) -> str:
        """The name by which recipes and plans know a linear layer; see `planned_layer`."""
        return planned_layer(self.model, name)

    @property
    def kept(self) -> set[str]:
        """Layers that keep the codes of the checkpoint, so that their weights must not be changed."""
        if self._kept is None:
            self._kept = {name for name, columns in self.layers.items() if self._keeps_codes(name, columns)}
        return self._kept

    def schemes(self) -> dict[str, Scheme]:
        """Linear layer to its scheme, for the layers whose codes are to be found."""
        return {
            name: scheme
            for name, columns in self.layers.items()
            if name not in self.kept and (scheme := self.scheme(name, columns))
        }

    def weight(self, name: str) -> str:
        """The name of the weight of a linear layer in the source."""
        experts = self._experts.get(name.rpartition(".")[0])
        return experts.weight.name if experts else f"{name}.weight"

    def scheme(self, name: str, columns: int) -> Scheme | None:
        """The scheme of a linear layer; None if it stays in floating point, as where no group size divides it."""
        try:
            return self.recipe.scheme(self.planned(name), columns)
        except UnsupportedModelError:
            return None

    def inputs(self) -> dict[str, torch.Tensor]:
        """Linear layer to a sample of its inputs, float [T, K]; see `sample_inputs`."""
        if self._inputs is None:
            self._inputs = sample_inputs(self.model, self.layers, self.windows) if len(self.windows) else {}
        return self._inputs

    def replace_weights(
        self,
        floats: Mapping[str, torch.Tensor] | None = None,
        quantized: Mapping[str, PrequantizedWeight] | None = None,
    ) -> None:
        """Replace weights of the source by name.

        Args:
            floats: weights and biases that the model has now, still to be quantized.
            quantized: weights with their codes.
        """
        if floats:
            self._inputs = None
        weights = CalibratedWeights(self.source.weights, dict(floats or {}), dict(quantized or {}))
        self.source = replace(self.source, weights=weights)

    def replace_quantized(self, found: Mapping[str, QuantizedWeight]) -> None:
        """Replace the weights of linear layers, by the name of the layer, those of all experts of a layer together."""
        quantized = {}
        for name, experts in self._experts.items():
            each = [found[f"{name}.{expert}"] for expert in range(len(experts)) if f"{name}.{expert}" in found]
            if each:
                quantized[experts.weight.name] = _stored_experts(each, experts.weight, self.source.weights)
        for name, weight in found.items():
            if name.rpartition(".")[0] not in self._experts:
                quantized[f"{name}.weight"] = _stored(weight)
        self.replace_weights(quantized=quantized)

    def parameters(self, modules: Iterable[str]) -> dict[str, torch.Tensor]:
        """The parameters of modules of the model by their names in the source."""
        found = {}
        for name in modules:
            owner = name.rpartition(".")[0]
            if owner in self._experts:
                if (weight := self._experts[owner].weight).name not in found:
                    found[weight.name] = self._experts[owner].stacked()
                continue
            for parameter, tensor in self.model.get_submodule(name).named_parameters(recurse=False):
                if f"{name}.{parameter}" in self.source.weights:  # libraries add parameters of their own
                    found[f"{name}.{parameter}"] = tensor.detach()
        return found

    def add_notes(self, notes: Iterable[str]) -> None:
        """Add sentences for the user to the source's."""
        self.source = replace(self.source, notes=(*self.source.notes, *notes))

    def add_overrides(self, overrides: Iterable[Override]) -> None:
        """Change the schemes of layers."""
        self.recipe = self.recipe.model_copy(update={"overrides": (*self.recipe.overrides, *overrides)})

    def release_model(self) -> None:
        """Free the model, after sampling the inputs on which the build measures the layers' output errors."""
        if self._model is not None:
            self.source = replace(self.source, layer_inputs=self.inputs())
            self._model = None

    def _keeps_codes(self, name: str, columns: int) -> bool:
        weight = self.source.weights.prequantized(self.weight(name))
        scheme = self.scheme(name, columns)
        return weight is not None and scheme is not None and kept_form(weight, scheme) is not None


class CalibratedWeights:
    """The weights of a source, some of them replaced by calibration; see `WeightReader`."""

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

    def read_expert(self, name: str, index: int) -> torch.Tensor:
        return self._floats[name][index] if name in self._floats else self._weights.read_expert(name, index)

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The quantized weight; None for one that was replaced in floating point, whose old codes are void."""
        if name in self._quantized or name in self._floats:
            return self._quantized.get(name)
        return self._weights.prequantized(name)


def linear_layers(model: PreTrainedModel) -> dict[str, int]:
    """Names of the linear layers, except the head and routers, with the number of their inputs."""
    mixture = bool(expert_weights(model))
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    found = {}
    for name in quantizable(model):
        module = model.get_submodule(name)
        if module not in ends and not (mixture and in_router(name)):
            found[name] = matrix(module).shape[1]
    return found


def _stored(weight: QuantizedWeight) -> PrequantizedWeight:
    return PrequantizedWeight(weight.scheme, lambda: weight)


def _stored_experts(each: list[QuantizedWeight], weight: ExpertWeight, weights: WeightReader) -> PrequantizedWeight:
    def read() -> QuantizedWeight:
        exact = weight.of_each(weights.read(weight.name))
        return joined(each, [float(value.double().square().sum()) for value in exact])

    return PrequantizedWeight(each[0].scheme, read, experts=tuple(_stored(expert) for expert in each))


def kept_form(weight: PrequantizedWeight, scheme: Scheme) -> PrequantizedWeight | None:
    """The form of a prequantized weight whose codes a layer with `scheme` keeps; None if it is quantized again.

    A layer with static activation scales also keeps codes that were made for one scale a token.
    """
    form = weight.matching(scheme)
    if form is None and scheme.activation == "int8-static":
        form = weight.matching(replace(scheme, activation="int8-per-token"))
    return form
