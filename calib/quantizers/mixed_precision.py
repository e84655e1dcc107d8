"""Find the layers that quantization hurts most and raise them until the model as a whole is good enough.

A layer is raised from 4 bits to 8, or from int8 activations to none. Layers that read one tensor are raised together,
so that they can still be computed together.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from edgekiln.calib.analysis.layer_groups import Readers, find_readers, matrix
from edgekiln.calib.calibrate import CalibratedWeights, Progress, linear_layers
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.fake_quant import as_seen
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.limits import Limits
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.errors import RequestError
from edgekiln.sources.base import ModelSource

# Windows that each layer is judged by alone, and that candidates are judged by as a whole.
_ALONE, _HELD_OUT = 2, 8
_NAMED = 6
# Relative difference of a weight from itself, read another way.
_SAME = 1e-6


@dataclass
class _Layer:
    """A linear layer: its weight in floating point, quantized as the recipe has it, and raised.

    `sees` is what becomes of its input then.
    """

    module: torch.nn.Module
    exact: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    sees: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Loss:
    increase: float  # of perplexity, in percent
    divergence: float  # nats

    def within(self, limits: Limits) -> bool:
        return (limits.max_ppl_increase is None or self.increase <= limits.max_ppl_increase) and (
            limits.max_kl is None or self.divergence <= limits.max_kl
        )


def promote_layers(
    source: ModelSource, recipe: Recipe, limits: Limits, windows: Windows, progress: Progress
) -> tuple[ModelSource, Recipe]:
    """The recipe with as few layers raised as hold the limits, and the source whose raised weights are float again.

    Each group of layers is quantized alone, and the divergence of the model's predictions then, over the bytes that
    raising it costs, is its rank; how many are raised from the top is found by halving. Both limits are held on
    windows that are not used for the ranks. What was chosen is among the source's notes.

    Args:
        source: calibrated already where the recipe asks for it.
        recipe: what each layer gets at first.
        limits: what to hold.
        windows: int64 [windows, length], at least two.
        progress: called with the step and how much of it is done.

    Raises:
        RequestError: not even all layers raised hold the limits, or there is too little data.
    """
    if len(windows) < 2:
        raise RequestError(f"a limit needs 2 windows of calibration data, got {len(windows)}: lower --calib-length")
    alone, held_out = windows[: min(_ALONE, len(windows) // 2)], windows[len(windows) // 2 :][:_HELD_OUT]
    model = load_model(source)
    layers = _layers(model, source, recipe)
    groups = [group for group in find_readers(model, list(layers)) if set(group.layers) <= set(layers)]
    ranked = _ranked(model, groups, layers, alone, progress)
    expected = _predictions(model, held_out)

    def loss(raised: int) -> _Loss:
        low, high = (
            [layers[name] for group in part for name in group.layers] for part in (ranked[raised:], ranked[:raised])
        )
        with _quantized(low, high):
            return _compare(expected, _predictions(model, held_out), held_out)

    low, high = 0, len(ranked)
    best = loss(0)
    if not best.within(limits):
        best, low = loss(high), 1
        if not best.within(limits):
            raise RequestError(
                f"with every layer raised perplexity still changes by {best.increase:+.2f}% and predictions differ by "
                f"{best.divergence:.4f} nats: raise --max-ppl-increase or --max-kl"
            )
        steps = max(1, math.ceil(math.log2(high)))
        while low < high:
            middle = (low + high) // 2
            found = loss(middle)
            low, high, best = (low, middle, found) if found.within(limits) else (middle + 1, high, best)
            progress("searching", 1 - math.log2(max(1, high - low)) / steps if high > low else 1.0)
    else:
        high = 0
    total = sum(recipe.spec(name) is not None for name in linear_layers(model))
    return _raised(source, recipe, ranked[:high], total, best)


def _raised(
    source: ModelSource, recipe: Recipe, groups: Sequence[Readers], total: int, loss: _Loss
) -> tuple[ModelSource, Recipe]:
    names = [name for group in groups for name in group.layers]
    overrides = tuple(Override(match=name, **_higher(recipe, name)) for name in names)
    floats = {f"{name}.weight": source.weights.read(f"{name}.weight") for name in names}
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    note = (
        f"{len(names)} of {total} layers are raised to 8 bits in groups{': ' if names else ''}{shown}; on held-out "
        f"calibration text perplexity changes by {loss.increase:+.2f}%, predictions by {loss.divergence:.4f} nats"
    )
    changed = replace(source, weights=CalibratedWeights(source.weights, floats, {}), notes=(*source.notes, note))
    return changed, recipe.model_copy(update={"overrides": (*recipe.overrides, *overrides)})


def _higher(recipe: Recipe, name: str) -> dict[str, Any]:
    spec = recipe.spec(name)
    assert spec is not None
    return {"bits": 8} if spec.group_size else {"bits": 8, "group_size": 32, "symmetric": False, "activation": "none"}


def _layers(model: PreTrainedModel, source: ModelSource, recipe: Recipe) -> dict[str, _Layer]:
    """The layers that raising can better, as they are and as they would be quantized."""
    found = {}
    for name, columns in linear_layers(model).items():
        scheme = recipe.scheme(name, columns)
        # Nothing is above 8 bits in groups, and what no group divides cannot get there.
        if scheme is None or (scheme.bits == 8 and scheme.group_size) or columns % 32:
            continue
        module = model.get_submodule(name)
        exact = matrix(module).detach().clone()
        quantized = _quantized_weight(source, name, exact, scheme)
        low = torch.from_numpy(quantized.dequantize())
        # A grid that the weight arrived on and keeps costs nothing; raised it could only lose.
        if scheme.activation == "none" and bool((low - exact).norm() <= _SAME * exact.norm()):
            continue
        raised = Recipe(default=recipe.spec(name), overrides=(Override(match="*", **_higher(recipe, name)),))
        higher = raised.scheme(name, columns)
        assert higher is not None
        high = torch.from_numpy(quantize(exact, higher).dequantize())
        found[name] = _Layer(module, exact, low, high, partial(as_seen, layer=quantized))
    return found


def _quantized_weight(source: ModelSource, name: str, exact: torch.Tensor, scheme: Scheme) -> QuantizedWeight:
    arrived = source.weights.stored(f"{name}.weight")
    kept = arrived.suiting(scheme) if arrived else None
    return kept.read() if kept else quantize(exact, scheme)


def _ranked(
    model: PreTrainedModel, groups: Sequence[Readers], layers: dict[str, _Layer], windows: Windows, progress: Progress
) -> list[Readers]:
    """Groups, the one most worth raising first."""
    expected = _predictions(model, windows)
    worth = []
    for done, group in enumerate(groups):
        members = [layers[name] for name in group.layers]
        with _quantized(members, []):
            divergence = _compare(expected, _predictions(model, windows), windows).divergence
        worth.append(divergence / sum(layer.exact.numel() for layer in members))
        progress("measuring layers", (done + 1) / len(groups))
    return [groups[index] for index in sorted(range(len(groups)), key=lambda index: -worth[index])]


@contextmanager
def _quantized(low: Sequence[_Layer], high: Sequence[_Layer]) -> Iterator[None]:
    """Inside the block these layers compute as if quantized by the recipe, and those as if raised."""
    handles = []
    try:
        with torch.no_grad():
            for layer in high:
                matrix(layer.module).copy_(layer.high)
            for layer in low:
                matrix(layer.module).copy_(layer.low)
                handles.append(layer.module.register_forward_pre_hook(_seen_by(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for layer in (*low, *high):
                matrix(layer.module).copy_(layer.exact)


def _seen_by(layer: _Layer) -> Callable[..., tuple[torch.Tensor, ...]]:
    def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (layer.sees(arguments[0]), *arguments[1:])

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
    for right, got, window in zip(expected, actual, windows, strict=True):
        targets = torch.from_numpy(window[1:])[:, None]
        divergence += float((right.exp() * (right - got)).sum())
        difference += float((right.gather(1, targets) - got.gather(1, targets)).sum())
        count += len(targets)
    return _Loss(100 * math.expm1(min(difference / count, 50.0)), divergence / count)
