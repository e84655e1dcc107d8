"""The table of quantizers: one entry each, from which all other modules derive which quantizers exist.

Recipes accept the methods of this table, presets and the help of the command line list them, and
`edgekiln.calib.calibrate` runs those that apply to a recipe, in the table's order. Importing this module is cheap: a
quantizer is named as "module:function" and imported when it runs.

To add a quantizer, add a module with a function of type `Quantizer` to `calib/quantizers` and an entry here.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

from edgekiln.calib.data.options import FEW_WINDOWS, MANY_WINDOWS

if TYPE_CHECKING:
    from edgekiln.calib.limits import Limits
    from edgekiln.calib.quantizers.calibration import Calibration
    from edgekiln.calib.recipe import Recipe

Stage = Literal["transform", "method", "activations", "promotion"]


class Quantizer(Protocol):
    """A function that quantizes weights, or prepares the model for it."""

    def __call__(self, calibration: "Calibration", /) -> None:
        """Read the model, its layers' schemes and the calibration data from `calibration`, and store the result in it.

        Raises:
            EdgekilnError: a library that the quantizer needs is not installed, or does not support the model.
            RequestError: the recipe or the limits cannot be met.
            SourceError: a weight is damaged.
        """
        ...


@dataclass(frozen=True)
class QuantizerEntry:
    """One quantizer.

    Attributes:
        name: unique in the table.
        stage: when it runs. "transform" changes float weights before they are quantized, "method" decides the codes
            of weights and is chosen by the recipe's `method`, "activations" decides static activation scales,
            "promotion" gives layers more bits.
        summary: a phrase for the command line's help.
        function: the `Quantizer` as "module:function"; None where there is nothing to do before the build.
        windows: how many windows of calibration data it needs; 0 if it needs none.
        applies: whether a recipe with limits needs it; None for a method, which the recipe names.
        preset: whether the method has a preset `int4-NAME`.
    """

    name: str
    stage: Stage
    summary: str
    function: str | None = None
    windows: int = 0
    applies: "Callable[[Recipe, Limits], bool] | None" = None
    preset: bool = False

    def is_active(self, recipe: "Recipe", limits: "Limits") -> bool:
        """Whether the quantizer runs for this recipe."""
        return recipe.method == self.name if self.applies is None else self.applies(recipe, limits)

    def load(self) -> Quantizer | None:
        """Import the quantizer; None where there is nothing to do."""
        if self.function is None:
            return None
        module, _, function = self.function.partition(":")
        return cast(Quantizer, getattr(importlib.import_module(module), function))


_ENTRIES = (
    QuantizerEntry(
        name="smoothquant",
        stage="transform",
        summary="moves factors from activations into weights, so that int8 activations lose less",
        function="edgekiln.calib.quantizers.smoothquant:quantize",
        windows=FEW_WINDOWS,
        applies=lambda recipe, _: recipe.smoothquant is not None,
    ),
    QuantizerEntry(
        name="rtn",
        stage="method",
        summary="round to nearest, with the scale and zero point of least squared error",
        # The build quantizes weights that have no codes yet this way, one at a time: see formats/quantize.py.
        function=None,
    ),
    QuantizerEntry(
        name="gptq",
        stage="method",
        summary="GPTQ, followed by coordinate descent and scale tuning",
        function="edgekiln.calib.quantizers.gptq:quantize",
        windows=MANY_WINDOWS,
        preset=True,
    ),
    QuantizerEntry(
        name="awq",
        stage="method",
        summary="AWQ's activation-aware scaling, then round to nearest",
        function="edgekiln.calib.quantizers.awq:quantize",
        windows=MANY_WINDOWS,
    ),
    QuantizerEntry(
        name="static_activations",
        stage="activations",
        summary="one int8 scale for all inputs of a layer",
        function="edgekiln.calib.quantizers.static_activations:quantize",
        windows=FEW_WINDOWS,
        applies=lambda recipe, _: recipe.has_static_activations,
    ),
    QuantizerEntry(
        name="mixed_precision",
        stage="promotion",
        summary="promotes sensitive layers to 8 bits until the limits hold",
        function="edgekiln.calib.quantizers.mixed_precision:quantize",
        windows=MANY_WINDOWS,
        applies=lambda _, limits: bool(limits),
    ),
)

# In the order in which they run.
QUANTIZERS = {entry.name: entry for entry in _ENTRIES}
METHODS = tuple(name for name, entry in QUANTIZERS.items() if entry.stage == "method")


def active_quantizers(recipe: "Recipe", limits: "Limits") -> list[QuantizerEntry]:
    """Entries of the quantizers that have to run before a build, in order."""
    return [entry for entry in QUANTIZERS.values() if entry.function and entry.is_active(recipe, limits)]


def required_windows(recipe: "Recipe", limits: "Limits") -> int:
    """How many windows of calibration data the active quantizers need; 0 if they need none."""
    return max((entry.windows for entry in active_quantizers(recipe, limits)), default=0)
