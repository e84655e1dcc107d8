"""Quality of an engine on text: perplexity, and the KL divergence of its predictions from a reference's."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.progress import StepProgress

# From int64 tokens [S] of a new sequence to float32 logits [S, V], those after each token.
Scorer = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
# Positions processed at once. Bounds the float64 copies, to 64 MB each with a vocabulary of 256k tokens.
_POSITIONS = 32


@dataclass(frozen=True)
class Evaluation:
    """Quality of an engine over all predicted tokens.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the text.
        tokens: number of predicted tokens.
        kl_divergence: mean of KL(reference || engine) over positions, in nats; None without a reference.
        same_top: share of the positions where both have the same most likely token; None without a reference.
        reference_perplexity: perplexity of the reference; None without one.
    """

    perplexity: float
    tokens: int
    kl_divergence: float | None
    same_top: float | None
    reference_perplexity: float | None


def perplexity(
    scorer: Scorer,
    tokens: npt.NDArray[np.int64],
    window: int = 512,
    max_tokens: int | None = None,
    *,
    reference: Scorer | None = None,
    progress: StepProgress | None = None,
) -> Evaluation:
    """Score a text in consecutive windows that each start with an empty KV cache.

    All tokens of a window except the first are predicted. The last window may be shorter; it needs two tokens.

    Args:
        scorer: the engine.
        tokens: int64 [T], the encoded text.
        window: tokens of a window.
        max_tokens: largest number of tokens to use.
        reference: the model to compare predictions with, with the same vocabulary.
        progress: called with the share that is done after each window.

    Raises:
        RequestError: `window`, `max_tokens` or the text is below two tokens, or the shapes of logits do not match.
        EdgekilnError: logits are NaN or infinite.
    """
    if window < 2:
        raise RequestError(f"window must be at least 2 tokens, got {window}")
    if max_tokens is not None and max_tokens < 2:
        raise RequestError(f"max tokens must be at least 2, got {max_tokens}")
    tokens = np.asarray(tokens, dtype=np.int64)[:max_tokens]
    if len(tokens) < 2:
        raise RequestError(f"the text must have at least 2 tokens to predict one, got {len(tokens)}")
    sums = _Sums()
    for start in range(0, len(tokens) - 1, window):
        ids = tokens[start : start + window]
        logits = _predictions(scorer, ids)
        expected = None if reference is None else _predictions(reference, ids)
        if expected is not None and expected.shape != logits.shape:
            raise RequestError(
                f"the reference predicts {expected.shape[1]} tokens, the engine {logits.shape[1]}: "
                "compare models with the same vocabulary"
            )
        for first in range(0, len(logits), _POSITIONS):
            part = slice(first, first + _POSITIONS)
            sums.add(logits[part], ids[1:][part], None if expected is None else expected[part])
        if progress is not None:
            progress(min(1.0, (start + window) / len(tokens)))
    if math.isnan(sums.loss + sums.divergence):
        raise EdgekilnError("the model's logits hold NaN or infinity: rebuild the engine, or use a wider quantization")
    return Evaluation(
        perplexity=_exp(sums.loss / sums.tokens),
        tokens=sums.tokens,
        kl_divergence=None if reference is None else sums.divergence / sums.tokens,
        same_top=None if reference is None else sums.same / sums.tokens,
        reference_perplexity=None if reference is None else _exp(sums.reference_loss / sums.tokens),
    )


@dataclass
class _Sums:
    loss: float = 0.0
    reference_loss: float = 0.0
    divergence: float = 0.0
    same: int = 0
    tokens: int = 0

    def add(
        self,
        logits: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
        expected: npt.NDArray[np.float32] | None,
    ) -> None:
        """Add positions.

        Args:
            logits: [P, V] of the engine.
            targets: [P], the true tokens.
            expected: [P, V], logits of the reference.
        """
        actual = _log_softmax(logits)
        self.tokens += len(targets)
        positions = np.arange(len(targets))
        self.loss -= float(actual[positions, targets].sum())
        if expected is not None:
            wanted = _log_softmax(expected)
            self.reference_loss -= float(wanted[positions, targets].sum())
            self.divergence += _divergence(wanted, actual)
            self.same += int((expected.argmax(axis=1) == logits.argmax(axis=1)).sum())


def _predictions(scorer: Scorer, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits [S - 1, V] that predict `ids[1:]`."""
    logits = scorer(ids)
    if logits.ndim != 2 or len(logits) != len(ids):
        raise RequestError(f"a scorer must return logits for each token, got shape {logits.shape} for {len(ids)}")
    if ids.min() < 0 or ids.max() >= logits.shape[1]:
        raise RequestError(
            f"the text has token {ids.max()}, the model knows {logits.shape[1]}: encode it with the model's tokenizer"
        )
    return logits[:-1]


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity - infinity is NaN, which the caller reports
        shifted -= shifted.max(axis=1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _divergence(expected: npt.NDArray[np.float64], actual: npt.NDArray[np.float64]) -> float:
    """Sum over positions of KL(expected || actual), from log-probabilities. Impossible tokens add nothing."""
    probabilities = np.exp(expected)
    possible = probabilities > 0
    return float((probabilities * np.subtract(expected, actual, out=np.zeros_like(expected), where=possible)).sum())


def _exp(value: float) -> float:
    """exp that returns infinity on overflow, which the loss of a broken model can cause."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
