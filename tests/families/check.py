"""Compare one model type: a tiny random model in transformers with its ort-cpu engine in float32.

The engine prefills prompts of three lengths at once and in chunks, decodes each alone, and decodes them together as a
ragged batch. Logits are compared with those that transformers computes for the whole sequence, without a cache.
"""

import inspect
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from edgekiln import runtimes
from edgekiln.errors import EdgekilnError, EngineError
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from families.configs import NOT_DECODERS
from families.tiny import tiny_model
from support.models import save_model

TOLERANCE = 1e-3  # of the norm of the logits at a position
PROMPTS = (23, 14, 19)
CHUNK = 7
DECODE = 16
MAX_LENGTH = 256  # some configurations do not say it
# Ids of bytes; those above are special.
_FIRST_ID, _LAST_ID = 3, 250

Class = Literal["right", "refused", "not configurable", "not a decoder", "wrong", "traceback"]


@dataclass(frozen=True)
class Outcome:
    """What became of one model type.

    Attributes:
        kind: "right" and "wrong": the engine's logits are, or are not, those of transformers; "refused": edgekiln
            refuses the model in one of its errors; "not configurable": transformers itself does not run it with a
            tiny configuration; "not a decoder": it does not continue a text; "traceback": edgekiln fails otherwise, or
            its engine does.
        detail: the relative error, or the reason in one sentence.
        log: the traceback of a failure of edgekiln.
    """

    kind: Class
    detail: str
    log: str = ""


def check(model_type: str) -> Outcome:
    """Build the tiny model of `model_type` and compare its engine with transformers."""
    if model_type in NOT_DECODERS:
        return Outcome("not a decoder", NOT_DECODERS[model_type])
    tokens = [np.random.default_rng(i).integers(_FIRST_ID, _LAST_ID, n + DECODE) for i, n in enumerate(PROMPTS)]
    try:
        model = tiny_model(model_type)
        expected = [_logits(model, row) for row in tokens]
        causal = _relative_error(_logits(model, tokens[0][: PROMPTS[0]]), expected[0][: PROMPTS[0]]) <= TOLERANCE
    except Exception as error:
        return Outcome("not configurable", _sentence(error))
    if not all(np.isfinite(row).all() for row in expected):
        return Outcome("not configurable", "transformers computes logits that are not finite")
    outcome = _compare(model, tokens, expected)
    return Outcome("not a decoder", outcome.detail) if outcome.kind == "refused" and not causal else outcome


def _compare(model: Any, tokens: list[np.ndarray], expected: list[np.ndarray]) -> Outcome:
    """Build an engine of `model` and compare its logits with `expected`; arguments as in `_compared`."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            engine = _build(model, Path(directory))
            error = max(_relative_error(*pair) for pair in _compared(engine, tokens, expected))
        except EngineError as failure:  # the engine was built but does not run
            return Outcome("traceback", _reason(failure, directory), traceback.format_exc())
        except EdgekilnError as refusal:
            return Outcome("refused", _reason(refusal, directory))
        except Exception as failure:
            return Outcome("traceback", _sentence(failure), traceback.format_exc())
    return Outcome("right" if error <= TOLERANCE else "wrong", f"{error:.0e}")


def _logits(model: Any, row: np.ndarray) -> np.ndarray:
    """float32[S, V] of transformers for int64[S] tokens."""
    ids = torch.tensor(row)[None]
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    taken = inspect.signature(model.forward).parameters
    with torch.no_grad():
        logits = model(**{name: value for name, value in arguments.items() if name in taken}).logits
    if logits.shape[:2] != ids.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for tokens of shape {tuple(ids.shape)}")
    return logits[0].float().numpy()


def _build(model: Any, directory: Path) -> Path:
    checkpoint, engine = directory / "model", directory / "engine"
    save_model(checkpoint, model)
    build_engine(resolve(str(checkpoint)), engine, BuildOptions(quant="none", max_length=MAX_LENGTH))
    return engine


def _compared(
    engine: Path, tokens: list[np.ndarray], expected: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of logits [V] or [B, V], of the engine and of transformers.

    Args:
        engine: the engine directory.
        tokens: int64[prompt + DECODE] of each sequence.
        expected: logits [prompt + DECODE, V] of each sequence.
    """
    for kernels in ("edgekiln", "onnxruntime"):
        whole = runtimes.open(engine, threads=1, kernels=kernels)  # type: ignore[arg-type]
        for row, logits, prompt in zip(tokens, expected, PROMPTS, strict=True):
            yield whole.prefill(whole.new_cache(1), 0, row[:prompt]), logits[prompt - 1]
        chunked = runtimes.open(engine, threads=1, chunk=CHUNK, kernels=kernels)  # type: ignore[arg-type]
        cache = chunked.new_cache(1)
        yield chunked.prefill(cache, 0, tokens[0][: PROMPTS[0]]), expected[0][PROMPTS[0] - 1]
        for position in range(PROMPTS[0], PROMPTS[0] + DECODE):
            yield chunked.step(cache, tokens[0][position : position + 1])[0], expected[0][position]
        batch = chunked.new_cache(len(PROMPTS))
        for index, (row, prompt) in enumerate(zip(tokens, PROMPTS, strict=True)):
            yield chunked.prefill(batch, index, row[:prompt]), expected[index][prompt - 1]
        for step in range(DECODE):
            new = np.array([row[prompt + step] for row, prompt in zip(tokens, PROMPTS, strict=True)])
            truth = [logits[prompt + step] for logits, prompt in zip(expected, PROMPTS, strict=True)]
            yield chunked.step(batch, new), np.stack(truth)


def _relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a position [..., V], relative to the norm of its logits; infinity if not all are numbers."""
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        return float("inf")
    difference = np.linalg.norm(logits - expected, axis=-1)
    return float(np.max(difference / np.linalg.norm(expected, axis=-1)))


def _reason(error: EdgekilnError, directory: str) -> str:
    """The sentence of an error of edgekiln, without the path of the checkpoint."""
    return " ".join(str(error).replace(f"{directory}/model", "the checkpoint").split())


def _sentence(error: Exception) -> str:
    """The first sentence of a library's exception, at most 200 characters of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}"[:200].rstrip()
