"""Run the quantizers of a recipe over a model source."""

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.limits import Limits
from edgekiln.calib.quantizers.base import active_quantizers
from edgekiln.calib.quantizers.calibration import Calibration
from edgekiln.calib.recipe import Recipe
from edgekiln.progress import Progress
from edgekiln.sources.base import ModelSource

_NO_LIMITS = Limits()


def calibrate(
    source: ModelSource, recipe: Recipe, windows: Windows, progress: Progress, limits: Limits = _NO_LIMITS
) -> tuple[ModelSource, Recipe]:
    """Run the active quantizers of `edgekiln.calib.quantizers.base`, in the order of the table.

    Args:
        source: the model.
        recipe: what each layer gets.
        windows: int64 [windows, length] calibration tokens; [0, 0] where no quantizer needs any.
        progress: called with the step and how much of it is done.
        limits: how much worse than the float32 model the engine may be.

    Returns:
        The source with the weights that quantizers changed or quantized, with samples of the layers' inputs and with
        notes for the user; and the recipe with the overrides that quantizers added.

    Raises:
        EdgekilnError: a library that a quantizer needs is not installed, or does not support the model.
        RequestError: the limits cannot be met.
        SourceError: a weight is damaged.
    """
    calibration = Calibration(source, recipe, limits, windows, progress)
    for entry in active_quantizers(recipe, limits):
        if entry.stage == "method":
            # A method may leave the model with quantized weights: output errors are measured on the inputs before.
            calibration.inputs()
        quantizer = entry.load()
        assert quantizer is not None
        quantizer(calibration)
    calibration.release_model()
    return calibration.source, calibration.recipe
