"""Quality of an engine on text: perplexity, and how far its predictions are from a reference's."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekiln.errors import EdgekilnError, RequestError

# int64 [S] of a fresh sequence -> float32 [S, V], the logits after each token.
Scorer = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
# Positions worked on at once: bounds the float64 copies, 64 MB each at 256k tokens of vocabulary.
_ROWS = 32


@dataclass(frozen=True)
class Evaluation:
    """Figures over all predicted tokens.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the text.
        tokens: how many tokens were predicted.
        kl_divergence: mean of KL(reference || engine) over positions, in nats; None without a reference.
        same_top: share of the positions where both have the same most likely token; None without a reference.
        reference_perplexity: the reference's own; None without one.
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
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Score int64 [T] `tokens` in consecutive windows that each start with an empty cache.

    Every token of a window but its first is predicted; a last window shorter than `window` counts too if it has two
    tokens.

    Args:
        scorer: the engine.
        tokens: the encoded text.
        window: tokens a window.
        max_tokens: use only so many tokens of the text.
        reference: the model to compare predictions with; it must have the same vocabulary.
        progress: called with the share done after each window.

    Raises:
        RequestError: window, limit or text below two tokens, or scores that do not fit the tokens or each other.
        EdgekilnError: the model gives NaN.
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
        for row in range(0, len(logits), _ROWS):
            rows = slice(row, row + _ROWS)
            sums.add(logits[rows], ids[1:][rows], None if expected is None else expected[rows])
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
        """Count rows of logits [R, V], their true tokens [R] and the reference's logits."""
        actual = _log_softmax(logits)
        self.tokens += len(targets)
        rows = np.arange(len(targets))
        self.loss -= float(actual[rows, targets].sum())
        if expected is not None:
            wanted = _log_softmax(expected)
            self.reference_loss -= float(wanted[rows, targets].sum())
            self.divergence += _divergence(wanted, actual)
            self.same += int((expected.argmax(axis=1) == logits.argmax(axis=1)).sum())


def _predictions(scorer: Scorer, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits [S - 1, V] that predict ids[1:]."""
    logits = scorer(ids)
    if logits.ndim != 2 or len(logits) != len(ids):
        raise RequestError(f"a scorer must return one row of logits a token, got shape {logits.shape} for {len(ids)}")
    if ids.min() < 0 or ids.max() >= logits.shape[1]:
        raise RequestError(
            f"the text has token {ids.max()}, the model knows {logits.shape[1]}: encode it with the model's tokenizer"
        )
    return logits[:-1]


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _divergence(expected: npt.NDArray[np.float64], actual: npt.NDArray[np.float64]) -> float:
    """Sum over rows of KL(expected || actual) of log-probabilities; a token that cannot occur adds nothing."""
    probabilities = np.exp(expected)
    possible = probabilities > 0
    return float((probabilities * np.subtract(expected, actual, out=np.zeros_like(expected), where=possible)).sum())


def _exp(value: float) -> float:
    """exp that overflows to infinity, for a model so broken that its perplexity has no float."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
