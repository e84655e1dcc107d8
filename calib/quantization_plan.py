"""Decide each layer's quantization scheme before any weight is read, then quantize one layer at a time.

`plan_quantization` looks only at module types and shapes, so that a model on the meta device suffices.
`quantized_tensors` reads and quantizes the layers one by one, so that memory never holds a float copy of the model.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgekiln.calib.formats.codebook import has_8_bit_form, without_codebook
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.quantize_experts import quantize_experts
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight, pack_int4
from edgekiln.calib.moe import ExpertWeight, expert_weights, in_router
from edgekiln.calib.recipe import Kind, Recipe
from edgekiln.errors import SourceError, UnsupportedModelError

PrequantizedLookup = Callable[[str], PrequantizedWeight | None]


class FloatWeights(Protocol):
    """The floats of weights by name; see `edgekiln.sources.base.WeightReader`."""

    def read(self, name: str) -> torch.Tensor: ...
    def read_expert(self, name: str, index: int) -> torch.Tensor: ...


@dataclass
class LayerPlan:
    """One weight to quantize.

    Attributes:
        names: the weight's names in the model, more than one when it is tied.
        scheme: the scheme it gets.
        transposed: the checkpoint stores it as [K, N].
        prequantized: the quantized weight of the checkpoint, where its scheme is kept; None where a float weight is
            quantized. That of experts is [experts · N, K], one expert after another.
        experts: the shapes, where it is one weight of all experts of a layer.
    """

    names: list[str]
    scheme: Scheme
    transposed: bool = False
    prequantized: PrequantizedWeight | None = None
    experts: ExpertWeight | None = None

    @property
    def module(self) -> str:
        """The module that owns the weight, the first one if it is tied."""
        return self.names[0].removesuffix(".weight")


@dataclass
class QuantizationPlan:
    """The layers to quantize, in the order of the model, and notes for the user, one sentence each."""

    layers: list[LayerPlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_quantization(
    model: PreTrainedModel,
    recipe: Recipe,
    prequantized: PrequantizedLookup = lambda _name: None,
    called: Collection[str] | None = None,
) -> QuantizationPlan:
    """Choose a scheme for the embedding, every linear layer and the experts; what cannot be quantized gets a note.

    Args:
        model: the model, with or without weights; it is not changed.
        recipe: the scheme wanted for each layer.
        prequantized: weight name to the checkpoint's quantized weight, whose scheme is kept where it suits the recipe;
            None for a float weight.
        called: names of the modules that a forward of the model calls; others are left out. None for all.

    Raises:
        RequestError: a pattern of the recipe matches no layer.
    """
    result = QuantizationPlan()
    experts = expert_weights(model)
    recipe.check_names([*quantizable(model), *(weight.layer for weight in experts.values())])
    if recipe.default is None and not recipe.overrides:
        return result
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules(remove_duplicate=False)}
    tied = head is not None and getattr(head, "weight", None) is embedding.weight
    shared = _plan_embedding(names[embedding], embedding, recipe, prequantized, result)
    for name, module in model.named_modules():
        if not is_linear(module) or (experts and in_router(name)) or not (called is None or name in called):
            continue
        is_head = module is head
        if is_head and tied and shared is not None:
            shared.names.append(f"{name}.weight")
            continue
        _, k = weight_shape(module)
        layer = _plan_layer(name, f"{name}.weight", k, "head" if is_head else "linear", recipe, prequantized, result)
        if layer is not None:
            layer.transposed = isinstance(module, Conv1D)
            result.layers.append(layer)
    for weight in experts.values():
        if called is None or weight.block in called:
            _plan_experts(weight, recipe, prequantized, result)
    inexact = Counter(layer.prequantized.note for layer in result.layers if layer.prequantized)
    result.notes += [f"{note} ({count} weights)" for note, count in inexact.items() if note]
    return result


def _plan_layer(
    name: str,
    weight: str,
    k: int,
    kind: Kind,
    recipe: Recipe,
    prequantized: PrequantizedLookup,
    result: QuantizationPlan,
) -> LayerPlan | None:
    """The plan of the layer `name` with a weight of k inputs; None, with a note, if it stays in floating point."""
    try:
        scheme = recipe.scheme(name, k, kind)
    except UnsupportedModelError:
        result.notes.append(f"{name} is {k} wide, which no group size divides: left in floating point")
        return None
    if scheme is None:
        return None
    found = prequantized(weight)
    kept = found.matching(scheme) if found else None
    if kept is not None:
        scheme = kept.scheme
    elif kind != "head" and (spec := recipe.spec(name)) and scheme.group_size != spec.group_size:
        result.notes.append(
            f"{name} is {k} wide, which {spec.group_size} does not divide: group size {scheme.group_size}"
        )
    return LayerPlan([weight], scheme, prequantized=kept)


def _plan_experts(
    weight: ExpertWeight, recipe: Recipe, prequantized: PrequantizedLookup, result: QuantizationPlan
) -> None:
    found = prequantized(weight.name)
    codebook = found.scheme.codebook if found and not has_8_bit_form(found.scheme) else None
    kept = None if codebook else found
    layer = _plan_layer(weight.layer, weight.name, weight.k, "linear", recipe, lambda _name: kept, result)
    if layer is None:
        return
    layer.experts = weight
    notes = []
    if codebook:
        notes.append(f"engines have no {codebook} for experts, which are quantized again as the preset says")
    if layer.scheme.activation == "int8-static":
        layer.scheme = replace(layer.scheme, activation="int8-per-token")
        layer.prequantized = kept.matching(layer.scheme) if kept else None
        notes.append("the inputs of experts get one scale a token, as calibration rarely reaches all experts")
    result.notes += [note for note in notes if note not in result.notes]
    result.layers.append(layer)


def quantizable(model: PreTrainedModel) -> list[str]:
    """Names of the modules that a recipe's patterns may match, each once: the embedding and all linear layers."""
    embedding = model.get_input_embeddings()
    return [name for name, module in model.named_modules() if module is embedding or is_linear(module)]


# Subclasses of Linear whose own forward computes the same.
_SAME_PRODUCT = frozenset({"FalconLinear"})


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a module is a plain linear layer, and no router, which are Linears with more in their forward."""
    if not isinstance(module, torch.nn.Linear | Conv1D):
        return False
    plain = type(module).forward in (torch.nn.Linear.forward, Conv1D.forward)
    return plain or type(module).__name__ in _SAME_PRODUCT


def weight_shape(module: torch.nn.Module) -> tuple[int, int]:
    """N and K of the weight of a Linear, Conv1D (which stores [K, N]) or Embedding."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    first, second = weight.shape
    return (second, first) if isinstance(module, Conv1D) else (first, second)


def _plan_embedding(
    name: str,
    module: torch.nn.Module,
    recipe: Recipe,
    prequantized: PrequantizedLookup,
    result: QuantizationPlan,
) -> LayerPlan | None:
    _, k = weight_shape(module)
    known = type(module) is torch.nn.Embedding or hasattr(module, "embed_scale")
    try:
        wanted = recipe.scheme(name, k, "embedding")
        if wanted is None:
            return None
        scheme = wanted if known else None
    except UnsupportedModelError:
        scheme = None
    if scheme is None:
        result.notes.append(f"{name} ({type(module).__name__}, {k} wide) is left in floating point")
        return None
    found = prequantized(f"{name}.weight")
    kept = without_codebook(found).matching(scheme) if found else None
    # QuantizedGather has neither codebooks nor a column order.
    if kept is not None and (kept.scheme.codebook or kept.scheme.act_order):
        kept = None
    layer = LayerPlan([f"{name}.weight"], kept.scheme if kept else scheme, prequantized=kept)
    result.layers.append(layer)
    return layer


def quantized_tensors(
    quantization: QuantizationPlan, weights: FloatWeights
) -> Iterator[tuple[LayerPlan, QuantizedWeight, dict[str, npt.NDArray[np.generic]]]]:
    """Quantize the layers one by one, lazily.

    Args:
        quantization: the layers, from `plan_quantization`.
        weights: float weights by name: [N, K], or [K, N] where the layer is `transposed`, and those of experts as the
            model has them.

    Yields:
        The layer, its quantized weight, and that weight's tensors by the suffix of their initializer (`qweight`,
        `scales`, ...), laid out as in `edgekiln.export.canonical.quantized_matmul`.

    Raises:
        SourceError: a weight holds NaN or infinity; the message names it.
    """
    for layer in quantization.layers:
        quantized = layer.prequantized.read() if layer.prequantized else _quantize(layer, weights)
        codes = pack_int4(quantized.codes) if layer.scheme.bits == 4 else quantized.codes
        tensors: dict[str, npt.NDArray[np.generic]] = {"qweight": codes, "scales": quantized.scales}
        for name in ("zero_points", "group_bias", "order"):
            if (array := getattr(quantized, name)) is not None:
                tensors[name] = array
        if layer.experts is not None:
            shape = (layer.experts.experts, layer.experts.n)
            tensors = {
                name: array if name == "order" else array.reshape(*shape, *array.shape[1:])
                for name, array in tensors.items()
            }
        if quantized.input_scale is not None:
            tensors["input_scale"] = np.array(quantized.input_scale, dtype=np.float32)
        yield layer, quantized, tensors
        # Freed before the next weight is made: those of experts are large.
        del quantized, codes, tensors


def _quantize(layer: LayerPlan, weights: FloatWeights) -> QuantizedWeight:
    if layer.scheme.activation == "int8-static":
        raise ValueError(f"{layer.names[0]}: the scale of a static input comes from calibration, and there was none")
    try:
        if layer.experts is not None:
            return quantize_experts(_each_expert(layer.experts, weights), layer.scheme)
        weight = weights.read(layer.names[0])
        return quantize(weight.t().contiguous() if layer.transposed else weight, layer.scheme)
    except SourceError as error:
        raise SourceError(f"{layer.names[0]}: {error}") from error


def _each_expert(experts: ExpertWeight, weights: FloatWeights) -> Iterator[torch.Tensor]:
    """The weights [N, K] of the experts, read one by one where the parameter is a stack."""
    if experts.stored_as_matrix:
        yield from experts.of_each(weights.read(experts.name))
        return
    for index in range(experts.experts):
        weight = weights.read_expert(experts.name, index)
        yield weight.t() if experts.transposed else weight
