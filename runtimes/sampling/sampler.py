"""From logits to the next token: a repetition penalty, a temperature, filters, and a seeded draw.

The filters mean what they mean in transformers and run in its order. A host in another language draws the same tokens
from the same logits if it follows `Sampler.sample` step by step with the generator of `edgekiln.runtimes.sampling.rng`.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.sampling.rng import SplitMix64

# Below this, dividing float32 logits leaves the range of float32, and the draw is the greedy one anyway.
SMALLEST_TEMPERATURE = 1e-5
BLOCK = 256

Filter = Callable[[Logits], Ids]


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen; the defaults are greedy.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: keep the k most likely tokens (and those tied with the last); 0 keeps all.
        top_p: keep the most likely tokens until their probability reaches this (nucleus, Holtzman et al. 2020).
        min_p: keep tokens at least this many times as likely as the likeliest (Nguyen et al. 2024).
        repetition_penalty: divide positive and multiply negative logits of tokens seen in the prompt or the answer
            (CTRL, Keskar et al. 2019); 1 changes nothing.
        seed: of the draws; None takes a fresh one.

    Raises:
        RequestError: a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        smallest = SMALLEST_TEMPERATURE
        if self.temperature != 0 and not smallest <= self.temperature < math.inf:
            raise RequestError(f"temperature must be 0 or at least {smallest}, got {self.temperature}")
        if self.top_k < 0:
            raise RequestError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise RequestError(f"min_p must be in [0, 1], got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise RequestError(f"repetition_penalty must be more than 0, got {self.repetition_penalty}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must be in [0, 2^64), got {self.seed}")

    @classmethod
    def from_defaults(cls, defaults: SamplingDefaults, **chosen: float | None) -> "SamplingOptions":
        """A model's own defaults, with every `chosen` value that is not None in their place."""
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in defaults.model_dump().items() if value is not None}
        values |= {name: value for name, value in chosen.items() if value is not None}
        return replace(cls(), **{name: value for name, value in values.items() if name in names})


def top_k(scores: Logits, k: int) -> Ids:
    """Ascending indices of the `k` highest of float32[N] `scores`, and of those tied with the k-th."""
    if k >= scores.size:
        return np.arange(scores.size)
    smallest = np.partition(scores, scores.size - k)[scores.size - k]
    return np.flatnonzero(scores >= smallest)


def top_p(scores: Logits, p: float) -> Ids:
    """Ascending indices of the fewest highest scores whose softmax reaches `p`, and of those tied with the last."""
    highest = scores.max()
    weights = np.exp(scores - highest)
    mass = p * float(weights.sum(dtype=np.float64))
    # All the weights under this one, even were there N of them, weigh less than the share that is left out.
    likely = weights[weights >= (1 - p) / weights.size]
    likely[::-1].sort()
    reached = int(np.searchsorted(np.cumsum(likely, dtype=np.float64), mass))
    return np.flatnonzero(weights >= likely[min(reached, likely.size - 1)])


def min_p(scores: Logits, p: float) -> Ids:
    """Ascending indices of scores whose softmax is at least `p` times the highest."""
    return np.flatnonzero(scores >= scores.max() + math.log(p))


def make_filters(options: SamplingOptions) -> list[Filter]:
    """The filters that `options` turn on, in the order they run."""
    filters: list[Filter] = []
    if options.top_k > 0:
        filters.append(lambda scores: top_k(scores, options.top_k))
    if options.top_p < 1:
        filters.append(lambda scores: top_p(scores, options.top_p))
    if options.min_p > 0:
        filters.append(lambda scores: min_p(scores, options.min_p))
    return filters


class Sampler:
    """Draws the tokens of a batch; each row has its own generator and its own memory of seen tokens."""

    def __init__(self, options: SamplingOptions, rows: int = 1) -> None:
        self.options = options
        self.seed = options.seed if options.seed is not None else secrets.randbits(64)
        self._filters = make_filters(options)
        self._generators = [SplitMix64.stream(self.seed, row) for row in range(rows)]
        self._seen: list[set[int]] = [set() for _ in range(rows)]
        self._penalized: list[Ids] = [np.zeros(0, dtype=np.int64) for _ in range(rows)]

    def observe(self, row: int, tokens: Ids) -> None:
        """Count int64[S] `tokens`, say the prompt, as seen for the repetition penalty."""
        if self.options.repetition_penalty == 1:
            return
        fresh = set(tokens.tolist()) - self._seen[row]
        if fresh:
            self._seen[row] |= fresh
            self._penalized[row] = np.append(self._penalized[row], np.array(sorted(fresh), dtype=np.int64))

    def sample(self, row: int, logits: Logits, logprob: bool = False) -> tuple[int, float | None]:
        """The next token of one row, from float32[V] `logits`, which stay as they are.

        With temperature 0 it is the highest logit after the penalty, the lowest id of a tie. Otherwise:

        1. penalty: in float32, logits of seen tokens are multiplied (negative) or divided by it;
        2. score = (logit - highest logit) / temperature, in float32;
        3. top_k, top_p, min_p, each on the softmax of what the one before left;
        4. weight = exp(score - highest score) in float32 of each token left, in ascending order of id;
        5. the first token whose cumulative weight, in float64, exceeds uniform() × the sum of all.

        Returns:
            The id, and if asked the log-probability (natural, of the softmax of `logits` as they came).

        Raises:
            EdgekilnError: the logits are not numbers.
        """
        scores = self._penalize(row, logits)
        token = int(scores.argmax())
        if not math.isfinite(scores[token]):
            raise EdgekilnError(f"the engine's logits hold {scores[token]}: the engine or its weights are broken")
        if self.options.temperature > 0:
            token = self._draw(row, (scores - scores[token]) / np.float32(self.options.temperature))
        if self.options.repetition_penalty != 1 and token not in self._seen[row]:
            self._seen[row].add(token)
            self._penalized[row] = np.append(self._penalized[row], token)
        return token, log_probability(logits, token) if logprob else None

    def _penalize(self, row: int, logits: Logits) -> Logits:
        seen = self._penalized[row]
        if not seen.size:
            return logits
        penalty = np.float32(self.options.repetition_penalty)
        scores = logits.copy()
        values = logits[seen]
        scores[seen] = np.where(values < 0, values * penalty, values / penalty)
        return scores

    def _draw(self, row: int, scores: Logits) -> int:
        tokens: Ids | None = None
        for keep in self._filters:
            kept = keep(scores)
            scores = scores[kept]
            tokens = kept if tokens is None else tokens[kept]
        chosen = pick(np.exp(scores - scores.max()), self._generators[row].uniform())
        return chosen if tokens is None else int(tokens[chosen])


def pick(weights: Logits, uniform: float) -> int:
    """Index of the first of float32[N] `weights` whose cumulative sum exceeds `uniform` in [0, 1) of the whole.

    Sums of blocks come first: a cumulative sum over a whole vocabulary is the slowest step of a draw.
    """
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, BLOCK), dtype=np.float64))
    target = uniform * blocks[-1]
    block = min(int(np.searchsorted(blocks, target, side="right")), blocks.size - 1)
    before = blocks[block - 1] if block else 0.0
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    index = min(int(np.searchsorted(inside, target - before, side="right")), inside.size - 1)
    return block * BLOCK + index


def log_probability(logits: Logits, token: int) -> float:
    """Natural logarithm of the softmax of float32[V] `logits` at `token`."""
    highest = logits.max()
    total = np.exp(logits - highest).sum(dtype=np.float64)
    return float(logits[token] - highest) - math.log(total)
