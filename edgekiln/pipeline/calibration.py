"""The step before a build: calibration data, and the source with the weights that come of it."""

from dataclasses import replace

from tokenizers import Tokenizer as FastTokenizer

from edgekiln.calib.calibrate import Progress, calibrate
from edgekiln.calib.data.checks import unrepresentative
from edgekiln.calib.data.loader import Windows, windows_of
from edgekiln.calib.data.options import FEW_WINDOWS, DataOptions
from edgekiln.calib.limits import Limits
from edgekiln.calib.quantizers.mixed_precision import promote_layers
from edgekiln.calib.recipe import Recipe
from edgekiln.pipeline.synthetic_data import self_text
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.base import ModelSource


def calibrated(
    source: ModelSource, recipe: Recipe, data: DataOptions, limits: Limits, progress: Progress
) -> tuple[ModelSource, Recipe]:
    """`source` with its weights calibrated for `recipe`, and the recipe with the layers raised that the limits ask for.

    What there is to say about the data and the layers is among the source's notes.

    Raises:
        RequestError: data that cannot be used, or limits that cannot be held.
        UnsupportedModelError: the model cannot be made an engine.
        SourceError: a weight is damaged.
    """
    if data.samples is None and recipe.method == "nearest" and not limits:
        data = replace(data, samples=FEW_WINDOWS)
    windows, notes = calibration_windows(source, data, progress)
    source = replace(source, notes=(*source.notes, *notes))
    if recipe.calibrates:
        source, recipe = calibrate(source, recipe, windows, progress)
    return promote_layers(source, recipe, limits, windows, progress) if limits else (source, recipe)


def calibration_windows(source: ModelSource, data: DataOptions, progress: Progress) -> tuple[Windows, list[str]]:
    """int64 [windows, length] tokens that `data` describes, and what makes them a poor sample."""
    data = data.fitted(getattr(source.config, "max_position_embeddings", None))
    if data.data is None:
        return self_text(source, data, progress), []
    tokenizer = Tokenizer(FastTokenizer.from_str(source.tokenizer_json), source.special_tokens, source.chat_template)
    windows = windows_of(data, tokenizer)
    return windows, unrepresentative(windows, tokenizer, source.config.vocab_size)
