"""Recipes that have a name: the values of `--quant`."""

from edgekiln.calib.formats.scheme import GROUP_SIZES
from edgekiln.calib.limits import Limits
from edgekiln.calib.quantizers.base import QUANTIZERS
from edgekiln.calib.recipe import LayerSpec, Recipe
from edgekiln.errors import RequestError

_INT8 = LayerSpec(bits=8, activation="int8-per-token")
_INT8_STATIC = LayerSpec(bits=8, activation="int8-static")
_INT4 = LayerSpec(bits=4, group_size=32, symmetric=False)

PRESETS: dict[str, Recipe] = {
    "none": Recipe(default=None),
    "int8": Recipe(smoothquant=0.7, default=_INT8),
    "int4": Recipe(default=_INT4),
    **{f"int4-{name}": Recipe(method=name, default=_INT4) for name, entry in QUANTIZERS.items() if entry.preset},
    "mixed": Recipe(default=_INT4),
    "int4-sym": Recipe(method="gptq", default=_INT4.model_copy(update={"symmetric": True})),
    "int8-static": Recipe(smoothquant=0.7, default=_INT8_STATIC),
}

# Limits of a preset when the user gives none.
DEFAULT_LIMITS = {"mixed": Limits(max_ppl_increase=1.0)}
# `int8` without calibration, for the engine that generates synthetic calibration data.
UNCALIBRATED = Recipe(default=_INT8)


def preset(name: str, group_size: int | None = None) -> Recipe:
    """The recipe of that name.

    Args:
        name: of a preset.
        group_size: replaces the group size of the default; only for presets in groups.

    Raises:
        RequestError: no such preset, or a group size that it does not take.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise RequestError(f"quant must be one of {', '.join(PRESETS)}, got {name}")
    recipe = PRESETS[name]
    if group_size is None:
        return recipe
    if recipe.default is None or recipe.default.group_size is None:
        raise RequestError(f"quant {name} has no groups: leave the group size of {group_size} out")
    if group_size not in GROUP_SIZES:
        raise RequestError(f"group size must be 32, 64 or 128, got {group_size}")
    return recipe.model_copy(update={"default": recipe.default.model_copy(update={"group_size": group_size})})
