"""Choose the next token from logits: repetition penalty, temperature, filters and a seeded draw.

The filters have the meaning and the order of transformers. The C++ library follows `Sampler.sample` step by step and so
draws the same tokens from the same logits; its sampling/exp.h reproduces numpy's float32 `exp`.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.sampling.filters import min_p, pick, top_k, top_p
from edgekiln.runtimes.sampling.rng import SplitMix64

# Divisors of logits are kept in the normal numbers of float32: a quotient is then never NaN.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

Filter = Callable[[Logits], Ids]


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen; greedy by default.

    Attributes:
        temperature: 0 takes the token with the highest logit; otherwise logits are divided by it, however small.
        top_k: keep the k most likely tokens, and those as likely as the last of them; 0 keeps all.
        top_p: keep the most likely tokens whose probabilities add up to this (nucleus, Holtzman et al. 2020); 0 keeps
            the most likely token only, and those as likely.
        min_p: keep tokens with at least this fraction of the highest probability (Nguyen et al. 2024).
        repetition_penalty: divides positive and multiplies negative logits of tokens that occur in the prompt or the
            answer (CTRL, Keskar et al. 2019); 1 disables it.
        seed: of the random draws; None chooses one at random.

    Raises:
        RequestError: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise RequestError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise RequestError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise RequestError(f"top_p must be in [0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise RequestError(f"min_p must be in [0, 1], got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise RequestError(f"repetition_penalty must be more than 0, got {self.repetition_penalty}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must be in [0, 2^64), got {self.seed}")

    @classmethod
    def from_defaults(cls, defaults: SamplingDefaults, **chosen: float | None) -> "SamplingOptions":
        """The model's defaults, overridden by every `chosen` value that is not None."""
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in defaults.model_dump().items() if value is not None}
        values |= {name: value for name, value in chosen.items() if value is not None}
        return replace(cls(), **{name: value for name, value in values.items() if name in names})


class Sampler:
    """Draws the tokens of a batch. Each sequence has its own random generator and its own set of penalized tokens.

    Attributes:
        options: how tokens are chosen.
        seed: of the draws; `options.seed`, or the one that was chosen at random.
    """

    def __init__(self, options: SamplingOptions, batch_size: int = 1) -> None:
        self.options = options
        self.seed = options.seed if options.seed is not None else secrets.randbits(64)
        self._filters = _make_filters(options)
        self._generators = [SplitMix64.stream(self.seed, index) for index in range(batch_size)]
        self._seen: list[set[int]] = [set() for _ in range(batch_size)]
        self._penalized: list[Ids] = [np.zeros(0, dtype=np.int64) for _ in range(batch_size)]

    def observe(self, index: int, tokens: Ids) -> None:
        """Apply the repetition penalty to int64[S] `tokens`, usually the prompt, in sequence `index` of the batch."""
        if self.options.repetition_penalty == 1:
            return
        fresh = set(tokens.tolist()) - self._seen[index]
        if fresh:
            self._seen[index] |= fresh
            self._penalized[index] = np.append(self._penalized[index], np.array(sorted(fresh), dtype=np.int64))

    def sample(self, index: int, logits: Logits, logprob: bool = False) -> tuple[int, float | None]:
        """Draw the next token of sequence `index` of the batch.

        With temperature 0 it is the token with the highest logit after the penalty, the lowest id of equal ones.
        Otherwise:

        1. penalty: in float32, logits of seen tokens are multiplied (negative) or divided (positive) by it, to at most
           the largest float32;
        2. score = (logit - highest logit) / temperature, in float32;
        3. top_k, top_p, min_p, each on the softmax of the scores that the one before kept;
        4. weight = exp(score - highest score), in float32, of the tokens that are left, in ascending order of id;
        5. the first token whose cumulative weight, in float64, exceeds uniform() times the sum of all.

        Args:
            index: batch index.
            logits: float32[V]; not modified.
            logprob: also compute the log-probability.

        Returns:
            The token id, and its natural log-probability under the softmax of `logits`, None unless requested.

        Raises:
            EdgekilnError: the highest logit is infinite or NaN.
        """
        scores = self._penalize(index, logits)
        token = int(scores.argmax())
        if not math.isfinite(scores[token]):
            raise EdgekilnError(f"the engine's logits hold {scores[token]}: the engine or its weights are broken")
        if self.options.temperature > 0:
            with np.errstate(over="ignore"):  # -inf, of probability 0
                token = self._draw(index, (scores - scores[token]) / _divisor(self.options.temperature))
        if self.options.repetition_penalty != 1 and token not in self._seen[index]:
            self._seen[index].add(token)
            self._penalized[index] = np.append(self._penalized[index], token)
        return token, log_probability(logits, token) if logprob else None

    def _penalize(self, index: int, logits: Logits) -> Logits:
        seen = self._penalized[index]
        if not seen.size:
            return logits
        penalty = _divisor(self.options.repetition_penalty)
        scores = logits.copy()
        values = logits[seen]
        with np.errstate(over="ignore", invalid="ignore"):  # of the branch that is not taken
            penalized = np.where(values < 0, values * penalty, values / penalty)
        scores[seen] = np.where(np.isfinite(values), np.clip(penalized, -_LARGEST, _LARGEST), values)
        return scores

    def _draw(self, index: int, scores: Logits) -> int:
        tokens: Ids | None = None
        for keep in self._filters:
            kept = keep(scores)
            scores = scores[kept]
            tokens = kept if tokens is None else tokens[kept]
        chosen = pick(np.exp(scores - scores.max()), self._generators[index].uniform())
        return chosen if tokens is None else int(tokens[chosen])


def _divisor(value: float) -> np.float32:
    """A positive number as a float32 by which logits can be divided."""
    return np.float32(min(max(value, _SMALLEST), _LARGEST))


def log_probability(logits: Logits, token: int) -> float:
    """Natural logarithm of the softmax of float32[V] `logits` at `token`."""
    highest = logits.max()
    with np.errstate(over="ignore"):  # -inf, of probability 0
        total = np.exp(logits - highest).sum(dtype=np.float64)
    return float(logits[token] - highest) - math.log(total)


def _make_filters(options: SamplingOptions) -> list[Filter]:
    """The filters that `options` enable, in the order in which they run."""
    filters: list[Filter] = []
    if options.top_k > 0:
        filters.append(lambda scores: top_k(scores, options.top_k))
    if options.top_p < 1:
        filters.append(lambda scores: top_p(scores, options.top_p))
    if options.min_p > 0:
        filters.append(lambda scores: min_p(scores, options.min_p))
    return filters
