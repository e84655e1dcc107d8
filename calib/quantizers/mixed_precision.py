"""Mixed precision: promote the layers that quantization hurts most until the model as a whole is accurate enough.

Promotion gives a layer 8 bits in groups and float activations, in place of 4 bits or of int8 activations. Layers that
read the same tensor are promoted together, so that their matrix multiplications can still be fused; so are all experts
of a layer, which share a scheme.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import LayerGroup, find_layer_groups, matrix
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.expert_linears import add_expert_linears, experts_of, planned_layer
from edgekiln.calib.formats.fake_quant import fake_quantize
from edgekiln.calib.formats.quantize import quantize as quantize_weight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.limits import Limits
from edgekiln.calib.moe import expert_weights
from edgekiln.calib.quantizers.calibration import CalibratedWeights, Calibration, linear_layers
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.errors import RequestError, UnsupportedModelError
from edgekiln.progress import Progress
from edgekiln.sources.base import ModelSource

# Windows on which each group is measured alone, and on which the whole model is measured.
_RANKING_WINDOWS, _HELD_OUT_WINDOWS = 2, 8
_NAMES_IN_NOTE = 6
# Relative difference up to which two readings of one weight are the same.
_SAME = 1e-6


@dataclass
class _Layer:
    """A linear layer with its weights, float [N, K].

    Attributes:
        planned: the name by which recipes know it.
        module: the layer.
        exact: weight before quantization.
        low: dequantized weight as the recipe quantizes it.
        high: dequantized weight after promotion.
        quantize_input: applies the recipe's quantization to the layer's input.
    """

    planned: str
    module: torch.nn.Module
    exact: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    quantize_input: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Loss:
    """The cost of quantization: increase of perplexity in percent, and mean KL divergence in nats."""

    ppl_increase: float
    kl_divergence: float

    def within(self, limits: Limits) -> bool:
        return (limits.max_ppl_increase is None or self.ppl_increase <= limits.max_ppl_increase) and (
            limits.max_kl is None or self.kl_divergence <= limits.max_kl
        )


def quantize(calibration: Calibration) -> None:
    """Promote layers until the limits hold; see `Quantizer`."""
    calibration.release_model()  # which may have quantized weights by now
    calibration.source, calibration.recipe = promote_layers(
        calibration.source, calibration.recipe, calibration.limits, calibration.windows, calibration.progress
    )


def promote_layers(
    source: ModelSource, recipe: Recipe, limits: Limits, windows: Windows, progress: Progress
) -> tuple[ModelSource, Recipe]:
    """Promote as few layers to 8 bits as the limits need.

    Groups of layers are ranked: each is quantized alone, and the KL divergence of the model's predictions is divided by
    the number of its weights, which is proportional to the bytes that promotion adds. A binary search then finds how
    many groups to promote, measured on windows that the ranking did not use.

    Args:
        source: the model, after all other quantizers.
        recipe: the scheme of each layer without promotion.
        limits: at least one.
        windows: int64 [windows, length], at least two.
        progress: called with the step and how much of it is done.

    Returns:
        The source, whose promoted weights are in floating point again, with a note on the layers that were promoted;
        and the recipe with an override for each of them.

    Raises:
        RequestError: the limits do not hold with all layers promoted, or there is too little calibration data.
    """
    if len(windows) < 2:
        raise RequestError(f"a limit needs 2 windows of calibration data, got {len(windows)}: lower --calib-length")
    ranking, held_out = windows[: min(_RANKING_WINDOWS, len(windows) // 2)], windows[len(windows) // 2 :]
    held_out = held_out[:_HELD_OUT_WINDOWS]
    model = load_model(source)
    add_expert_linears(model)
    layers = _layers(model, source, recipe)
    groups = [group for group in find_layer_groups(model, list(layers)) if set(group.layers) <= set(layers)]
    ranked = _rank(model, groups, layers, ranking, progress)
    expected = _predictions(model, held_out)

    def loss(promoted: int) -> _Loss:
        low, high = (
            [layers[name] for group in part for name in group.layers] for part in (ranked[promoted:], ranked[:promoted])
        )
        with _quantized(low, high):
            return _compare(expected, _predictions(model, held_out), held_out)

    low, high = 0, len(ranked)
    best = loss(0)
    if not best.within(limits):
        best, low = loss(high), 1
        if not best.within(limits):
            raise RequestError(
                f"with every layer promoted perplexity still changes by {best.ppl_increase:+.2f}% and predictions "
                f"differ by {best.kl_divergence:.4f} nats: raise --max-ppl-increase or --max-kl"
            )
        steps = max(1, math.ceil(math.log2(high)))
        while low < high:
            middle = (low + high) // 2
            found = loss(middle)
            low, high, best = (low, middle, found) if found.within(limits) else (middle + 1, high, best)
            progress("searching", 1 - math.log2(max(1, high - low)) / steps if high > low else 1.0)
    else:
        high = 0
    planned = {planned_layer(model, name) for name in linear_layers(model)}
    total = sum(recipe.spec(name) is not None for name in planned)
    promoted = [layers[name].planned for group in ranked[:high] for name in group.layers]
    stacks = {weight.layer: weight.name for weight in expert_weights(model).values()}
    weights = {name: stacks.get(name, f"{name}.weight") for name in promoted}
    return _promote(source, recipe, weights, total, best)


def _promote(
    source: ModelSource, recipe: Recipe, weights: dict[str, str], total: int, loss: _Loss
) -> tuple[ModelSource, Recipe]:
    """Promote layers, given with the names of their weights in the source."""
    names = list(weights)
    overrides = tuple(Override(match=name, **_promoted_fields(recipe, name)) for name in names)
    floats = {weight: source.weights.read(weight) for weight in weights.values()}
    more = f" and {len(names) - _NAMES_IN_NOTE} more" if len(names) > _NAMES_IN_NOTE else ""
    shown = ", ".join(names[:_NAMES_IN_NOTE]) + more
    note = (
        f"{len(names)} of {total} layers are promoted to 8 bits in groups{': ' if names else ''}{shown}; on held-out "
        f"calibration data perplexity changes by {loss.ppl_increase:+.2f}%, predictions by "
        f"{loss.kl_divergence:.4f} nats"
    )
    changed = replace(source, weights=CalibratedWeights(source.weights, floats, {}), notes=(*source.notes, note))
    return changed, recipe.model_copy(update={"overrides": (*recipe.overrides, *overrides)})


def _promoted_fields(recipe: Recipe, name: str) -> dict[str, Any]:
    """Fields of the override that promotes the layer `name`."""
    spec = recipe.spec(name)
    assert spec is not None
    return {"bits": 8} if spec.group_size else {"bits": 8, "group_size": 32, "symmetric": False, "activation": "none"}


def _layers(model: PreTrainedModel, source: ModelSource, recipe: Recipe) -> dict[str, _Layer]:
    """The layers that promotion can improve."""
    found = {}
    for name, columns in linear_layers(model).items():
        planned = planned_layer(model, name)
        try:
            scheme = recipe.scheme(planned, columns)
        except UnsupportedModelError:
            continue  # stays in floating point
        # Layers with 8 bits in groups have the highest precision already; promotion needs a width that 32 divides.
        if scheme is None or (scheme.bits == 8 and scheme.group_size) or columns % 32:
            continue
        module = model.get_submodule(name)
        exact = matrix(module).detach().clone()
        if planned != name and scheme.activation == "int8-static":
            scheme = replace(scheme, activation="int8-per-token")
        quantized = _quantized_weight(source, model, name, exact, scheme)
        low = torch.from_numpy(quantized.dequantize())
        # A weight that keeps the checkpoint's codes has no error, which promotion could only add.
        if scheme.activation == "none" and bool((low - exact).norm() <= _SAME * exact.norm()):
            continue
        override = Override(match="*", **_promoted_fields(recipe, planned))
        promoted = Recipe(default=recipe.spec(planned), overrides=(override,)).scheme(planned, columns)
        assert promoted is not None
        high = torch.from_numpy(quantize_weight(exact, promoted).dequantize())
        found[name] = _Layer(planned, module, exact, low, high, partial(fake_quantize, layer=quantized))
    return found


def _quantized_weight(
    source: ModelSource, model: PreTrainedModel, name: str, exact: torch.Tensor, scheme: Scheme
) -> QuantizedWeight:
    stack = experts_of(model, name)
    arrived = source.weights.prequantized(stack.weight.name if stack else f"{name}.weight")
    kept = arrived.matching(scheme) if arrived else None
    if kept is None:
        return quantize_weight(exact, scheme)
    return kept.experts[int(name.rpartition(".")[2])].read() if stack else kept.read()


def _rank(
    model: PreTrainedModel,
    groups: Sequence[LayerGroup],
    layers: dict[str, _Layer],
    windows: Windows,
    progress: Progress,
) -> list[LayerGroup]:
    """Sort groups by KL divergence per weight when quantized alone, the largest first."""
    expected = _predictions(model, windows)
    worth = []
    for done, group in enumerate(groups):
        members = [layers[name] for name in group.layers]
        with _quantized(members, []):
            divergence = _compare(expected, _predictions(model, windows), windows).kl_divergence
        worth.append(divergence / sum(layer.exact.numel() for layer in members))
        progress("measuring layers", (done + 1) / len(groups))
    return [groups[index] for index in sorted(range(len(groups)), key=lambda index: -worth[index])]


@contextmanager
def _quantized(low: Sequence[_Layer], high: Sequence[_Layer]) -> Iterator[None]:
    """Inside the block the `low` layers compute as the recipe quantizes them, the `high` ones as promoted."""
    handles = []
    try:
        with torch.no_grad():
            for layer in high:
                matrix(layer.module).copy_(layer.high)
            for layer in low:
                matrix(layer.module).copy_(layer.low)
                handles.append(layer.module.register_forward_pre_hook(_quantize_input(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for layer in (*low, *high):
                matrix(layer.module).copy_(layer.exact)


def _quantize_input(layer: _Layer) -> Callable[..., tuple[torch.Tensor, ...]]:
    def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (layer.quantize_input(arguments[0]), *arguments[1:])

    return hook


@torch.no_grad()
def _predictions(model: PreTrainedModel, windows: Windows) -> list[torch.Tensor]:
    """Log-probabilities [length - 1, V] of each window."""
    found = []
    for window in windows:
        logits = model(input_ids=torch.from_numpy(window)[None], use_cache=False).logits[0, :-1]
        found.append(torch.log_softmax(logits.float(), -1))
    return found


def _compare(expected: list[torch.Tensor], actual: list[torch.Tensor], windows: Windows) -> _Loss:
    divergence = difference = 0.0
    count = 0
    for reference, ours, window in zip(expected, actual, windows, strict=True):
        targets = torch.from_numpy(window[1:])[:, None]
        divergence += float((reference.exp() * (reference - ours)).sum())
        difference += float((reference.gather(1, targets) - ours.gather(1, targets)).sum())
        count += len(targets)
    return _Loss(100 * math.expm1(min(difference / count, 50.0)), divergence / count)
