"""What changes the logits of single tokens before one is chosen: biases, and penalties on tokens that occurred."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids, Logits

# Divisors of logits are kept in the normal numbers of float32: a quotient is then never NaN.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class LogitBias:
    """What is added to the logits of some tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        """Add `bias` of each token id to its logit."""
        self._tokens: Ids = np.array(sorted(bias), dtype=np.int64)
        self._values: Logits = np.array([bias[token] for token in self._tokens.tolist()], dtype=np.float32)

    def check(self, vocab_size: int) -> None:
        """Check that the ids are of a vocabulary.

        Raises:
            RequestError: an id is `vocab_size` or more.
        """
        if self._tokens.size and self._tokens[-1] >= vocab_size:
            raise RequestError(
                f"logit_bias has token {self._tokens[-1]}, but the engine has {vocab_size} tokens: "
                f"give ids up to {vocab_size - 1}"
            )

    def apply(self, logits: Logits) -> Logits:
        """float32[V] logits with the biases; not a copy if there are none.

        Raises:
            RequestError: an id is not in the vocabulary.
        """
        if not self._tokens.size:
            return logits
        self.check(logits.size)
        scores = logits.copy()
        scores[self._tokens] += self._values
        return scores


class RepetitionPenalty:
    """Makes the tokens of a sequence, prompt and answer, less likely (CTRL, Keskar et al. 2019)."""

    def __init__(self, penalty: float) -> None:
        """Divide positive and multiply negative logits by `penalty`; 1 does nothing."""
        self._penalty = penalty
        self._seen: set[int] = set()
        self._tokens: Ids = np.zeros(0, dtype=np.int64)

    def observe(self, tokens: Iterable[int]) -> None:
        """Penalize `tokens` from now on."""
        if self._penalty == 1:
            return
        fresh = set(tokens) - self._seen
        if fresh:
            self._seen |= fresh
            self._tokens = np.append(self._tokens, np.array(sorted(fresh), dtype=np.int64))

    def apply(self, logits: Logits) -> Logits:
        """float32[V] logits with the penalty, to at most the largest float32; not a copy if there is none."""
        if not self._tokens.size:
            return logits
        penalty = divisor(self._penalty)
        scores = logits.copy()
        values = logits[self._tokens]
        with np.errstate(over="ignore", invalid="ignore"):  # of the branch that is not taken
            penalized = np.where(values < 0, values * penalty, values / penalty)
        scores[self._tokens] = np.where(np.isfinite(values), np.clip(penalized, -_LARGEST, _LARGEST), values)
        return scores


class CountPenalty:
    """Makes the tokens of an answer less likely, as OpenAI's presence and frequency penalties do."""

    def __init__(self, presence: float, frequency: float) -> None:
        """Subtract `presence` once and `frequency` per occurrence from the logits of tokens of the answer."""
        self._presence, self._frequency = np.float32(presence), np.float32(frequency)
        self._positions: dict[int, int] = {}  # of tokens in the arrays
        self._tokens: Ids = np.zeros(0, dtype=np.int64)
        self._counts: NDArray[np.float32] = np.zeros(0, dtype=np.float32)

    def add(self, token: int) -> None:
        """Count a token of the answer."""
        if not self._presence and not self._frequency:
            return
        position = self._positions.setdefault(token, len(self._positions))
        if position == self._tokens.size:
            self._tokens = np.append(self._tokens, token)
            self._counts = np.append(self._counts, np.float32(0))
        self._counts[position] += 1

    def apply(self, logits: Logits) -> Logits:
        """float32[V] logits with the penalties; not a copy if there are none."""
        if not self._tokens.size:
            return logits
        scores = logits.copy()
        scores[self._tokens] -= self._presence + self._frequency * self._counts
        return scores


def divisor(value: float) -> np.float32:
    """A positive number as a float32 by which logits can be divided."""
    return np.float32(min(max(value, _SMALLEST), _LARGEST))
