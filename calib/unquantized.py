"""Which parameters of a model stay in floating point, and why: a build under a quantizing recipe says so."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from transformers import PreTrainedModel

from edgekiln.calib.moe import expert_weights, in_router
from edgekiln.calib.quantization_plan import QuantizationPlan, quantizable, weight_shape
from edgekiln.calib.recipe import Kind, Recipe
from edgekiln.errors import RequestError, UnsupportedModelError

# Norms, biases and routers are less than this share of any model.
LIMIT: Final = 0.05
_SHOWN: Final = 3
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")

Reason = Literal["the recipe skips it", "no group size divides its width", "it is not the weight of a linear layer"]


@dataclass(frozen=True)
class Unquantized:
    """Parameters that stay in floating point and differ only in the numbers of their layers.

    Attributes:
        name: with * for the numbers.
        parameters: how many there are.
        reason: why they stay.
    """

    name: str
    parameters: int
    reason: Reason


def check_unquantized(
    model: PreTrainedModel,
    recipe: Recipe,
    plan: QuantizationPlan,
    called: Collection[str] | None = None,
    ignored: Collection[str] = (),
    strict: bool = False,
) -> None:
    """Add a note to `plan` if more than `LIMIT` of the parameters stay in floating point.

    Args:
        model: the model that `plan` is of, with or without weights, before its layers are replaced.
        recipe: the recipe of `plan`. Nothing is said of one whose default is floating point.
        plan: gets the note.
        called: names of the modules that a forward of the model calls; parameters of others do not count. None for all.
        ignored: names of modules whose parameters do not count.
        strict: raise an error in place of the note.

    Raises:
        RequestError: with `strict`.
    """
    if recipe.default is None:
        return
    counted = _counted(model, called, ignored)
    planned = {name for layer in plan.layers for name in layer.names}
    total, left = sum(counted.values()), sum(size for name, size in counted.items() if name not in planned)
    if left <= LIMIT * total:
        return
    groups = _grouped(model, recipe, {name: size for name, size in counted.items() if name not in planned})
    shown = ", ".join(f"{group.name} ({group.parameters / total:.0%}: {group.reason})" for group in groups[:_SHOWN])
    more = f" and {len(groups) - _SHOWN} smaller ones" if len(groups) > _SHOWN else ""
    sentence = f"{left / total:.0%} of the parameters stay in floating point: {shown}{more}"
    if strict:
        raise RequestError(f"{sentence}; change the recipe or build without --strict")
    plan.notes.append(sentence)


def _counted(model: PreTrainedModel, called: Collection[str] | None, ignored: Collection[str]) -> dict[str, int]:
    """Sizes of the parameters by name, tied ones once."""
    # Modules of stacked parameters are not always called.
    blocks = {name.rpartition(".")[0]: weight.block for name, weight in expert_weights(model).items()}
    found = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        if owner not in ignored and (called is None or owner in called or blocks.get(owner) in called):
            found[name] = parameter.numel()
    return found


def _grouped(model: PreTrainedModel, recipe: Recipe, sizes: dict[str, int]) -> list[Unquantized]:
    """The groups, the largest first."""
    layers = _layers(model)
    groups: dict[tuple[str, Reason], int] = {}
    for name, size in sizes.items():
        key = _NUMBER.sub("*", name.removesuffix(".weight")), _reason(recipe, layers.get(name))
        groups[key] = groups.get(key, 0) + size
    found = [Unquantized(name, size, reason) for (name, reason), size in groups.items()]
    return sorted(found, key=lambda group: -group.parameters)


def _layers(model: PreTrainedModel) -> dict[str, tuple[str, int, Kind]]:
    """Weight -> the name that recipes know it by, its width and its kind."""
    experts = expert_weights(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    found: dict[str, tuple[str, int, Kind]] = {}
    for name in quantizable(model):
        module = model.get_submodule(name)
        if experts and in_router(name):
            continue
        kind: Kind = "embedding" if module is embedding else "head" if module is head else "linear"
        found[f"{name}.weight"] = name, weight_shape(module)[1], kind
    return found | {name: (weight.layer, weight.k, "linear") for name, weight in experts.items()}


def _reason(recipe: Recipe, layer: tuple[str, int, Kind] | None) -> Reason:
    if layer is None:
        return "it is not the weight of a linear layer"
    try:
        if recipe.scheme(*layer) is None:
            return "the recipe skips it"
    except UnsupportedModelError:
        return "no group size divides its width"
    return "it is not the weight of a linear layer"
