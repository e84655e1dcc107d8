"""Compare a finished engine with its float32 model on a text, and write the result into report.json."""

import math
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
from edgekiln.progress import StepProgress
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.base import ModelSource


def quality_tokens(source: ModelSource, text: QualityText) -> npt.NDArray[np.int64]:
    """int64 [T] token ids of the text. Also called before a build, so that an unusable text is refused early.

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
    progress: StepProgress,
) -> EngineManifest:
    """Evaluate an engine and its float32 model, and rewrite report.json and the manifest.

    Args:
        directory: an engine that is not published yet.
        manifest: its manifest.
        source: the model before any calibration.
        text: the text to predict.
        progress: called with the share of the text that is done.

    Returns:
        The new manifest.

    Raises:
        EdgekilnError: the engine cannot be run here.
        SourceError: a weight cannot be read.
    """
    tokens = quality_tokens(source, text)
    window = min(WINDOW, manifest.architecture.max_length)
    runtime = runtimes.open(directory, verify=False)
    result = perplexity(runtime.score, tokens, window, reference=reference_scorer(source), progress=progress)
    assert result.reference_perplexity is not None
    assert result.kl_divergence is not None
    assert result.same_top is not None
    quality = Quality(
        text=text.name,
        sha256=text.sha256,
        window=window,
        tokens=result.tokens,
        perplexity_before=_finite(result.reference_perplexity),
        perplexity_after=_finite(result.perplexity),
        kl_divergence=result.kl_divergence,
        same_top=result.same_top,
    )
    report = read_report(directory).model_copy(update={"quality": quality})
    write_json(directory / REPORT_FILE, report.model_dump())
    return write_manifest(directory, **manifest.model_dump(exclude={"files"}))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
