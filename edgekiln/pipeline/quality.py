"""How well a finished engine predicts a text, beside the model it was made from; written into its report."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as FastTokenizer

from edgekiln import runtimes
from edgekiln.calib.evaluation.hf_reference import reference_scorer
from edgekiln.calib.evaluation.options import WINDOW, QualityText
from edgekiln.calib.evaluation.perplexity import perplexity
from edgekiln.engine.directory import REPORT_FILE, write_json
from edgekiln.engine.manifest import EngineManifest, write_manifest
from edgekiln.engine.reports import Quality, read_report
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.base import ModelSource


def quality_tokens(source: ModelSource, text: QualityText) -> npt.NDArray[np.int64]:
    """int64 [T] tokens of the text; asked for before a build, so that a useless text does not fail a finished one.

    Raises:
        RequestError: fewer than two tokens.
    """
    tokenizer = Tokenizer(FastTokenizer.from_str(source.tokenizer_json), source.special_tokens)
    tokens = tokenizer.encode(text.content)[: text.max_tokens]
    if len(tokens) < 2:
        raise RequestError(f"{text.name} has {len(tokens)} tokens: give a text with at least 2 to predict one")
    return tokens


def add_quality(
    directory: Path,
    manifest: EngineManifest,
    source: ModelSource,
    text: QualityText,
    progress: Callable[[float], None],
) -> EngineManifest:
    """Score an engine directory and its model in float32, and write report.json and the manifest anew.

    Args:
        directory: a complete engine that nobody else reads yet.
        manifest: its manifest.
        source: the model before any calibration.
        text: what to predict.
        progress: called with the share done.

    Raises:
        EdgekilnError: the engine cannot be run here.
        SourceError: a weight cannot be read.
    """
    tokens = quality_tokens(source, text)
    window = min(WINDOW, manifest.architecture.max_length)
    runtime = runtimes.open(directory, verify=False)
    figures = perplexity(runtime.score, tokens, window, reference=reference_scorer(source), progress=progress)
    assert figures.reference_perplexity is not None
    assert figures.kl_divergence is not None
    assert figures.same_top is not None
    quality = Quality(
        text=text.name,
        sha256=text.sha256,
        window=window,
        tokens=figures.tokens,
        perplexity_before=_finite(figures.reference_perplexity),
        perplexity_after=_finite(figures.perplexity),
        kl_divergence=figures.kl_divergence,
        same_top=figures.same_top,
    )
    report = read_report(directory).model_copy(update={"quality": quality})
    write_json(directory / REPORT_FILE, report.model_dump())
    return write_manifest(directory, **manifest.model_dump(exclude={"files"}))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
