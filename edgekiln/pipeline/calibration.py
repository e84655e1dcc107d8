"""Prepare calibration data and calibrate a model's weights, before the engine is assembled."""

from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.calib.calibrate import calibrate
from edgekiln.calib.data.checks import unrepresentative
from edgekiln.calib.data.loader import Windows, windows_of
from edgekiln.calib.data.options import DataOptions
from edgekiln.calib.limits import Limits
from edgekiln.calib.quantizers.base import required_windows
from edgekiln.calib.recipe import Recipe
from edgekiln.pipeline.synthetic_data import synthetic_windows
from edgekiln.progress import Progress
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.base import ModelSource


def calibrated(
    source: ModelSource, recipe: Recipe, data: DataOptions, limits: Limits, progress: Progress
) -> tuple[ModelSource, Recipe]:
    """Calibrate the weights of `source` for `recipe`, and promote layers to 8 bits until `limits` hold.

    Args:
        source: the model.
        recipe: scheme of each layer.
        data: calibration data.
        limits: how much worse than float32 the model may predict; empty limits promote no layer.
        progress: called with the name of the step and the share of it that is done.

    Returns:
        The source with calibrated weights and further notes for the build report, and the recipe with promoted layers.

    Raises:
        RequestError: data that cannot be used, or limits that no number of promoted layers satisfies.
        UnsupportedModelError: an engine cannot be built of the model.
        SourceError: a weight is damaged.
    """
    wanted = required_windows(recipe, limits)
    windows = np.empty((0, 0), dtype=np.int64)
    if wanted:
        data = data if data.samples else replace(data, samples=wanted)
        windows, notes = calibration_windows(source, data, progress)
        source = replace(source, notes=(*source.notes, *notes))
    return calibrate(source, recipe, windows, progress, limits)


def calibration_windows(source: ModelSource, data: DataOptions, progress: Progress) -> tuple[Windows, list[str]]:
    """Read or generate the calibration data.

    Returns:
        int64 [windows, length] token ids, and sentences that say why they may be a poor sample.
    """
    data = data.fitted(getattr(source.config, "max_position_embeddings", None))
    if data.data is None:
        return synthetic_windows(source, data, progress), []
    tokenizer = Tokenizer(FastTokenizer.from_str(source.tokenizer_json), source.special_tokens, source.chat_template)
    windows = windows_of(data, tokenizer)
    return windows, unrepresentative(windows, tokenizer, source.config.vocab_size)
