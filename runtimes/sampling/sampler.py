"""Choose the next token from logits: biases, penalties, a constraint, temperature, filters and a seeded draw.

The filters have the meaning and the order of transformers. The C++ library follows `Sampler.sample` step by step and so
draws the same tokens from the same logits; its sampling/exp.h reproduces numpy's float32 `exp`. Its constraints are
callbacks that give masks; it has no biases, penalties by count and lists of the most likely tokens.
"""

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.sampling.constraint import Constraint, allowed_ids, allows
from edgekiln.runtimes.sampling.filters import min_p, pick, top_k, top_p
from edgekiln.runtimes.sampling.logprobs import log_probabilities, most_likely
from edgekiln.runtimes.sampling.penalties import CountPenalty, LogitBias, RepetitionPenalty, divisor
from edgekiln.runtimes.sampling.rng import SplitMix64

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
        presence_penalty: subtracted from logits of tokens that occur in the answer, in [-2, 2], as OpenAI defines it.
        frequency_penalty: subtracted from logits once for each time that a token occurs in the answer, in [-2, 2].
        logit_bias: what is added to the logits of tokens, by id, in [-100, 100].
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

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
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise RequestError(f"{name} must be in [-2, 2], got {getattr(self, name)}")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise RequestError(f"logit_bias must be by token id, got {token!r:.60}")
            if not -100 <= bias <= 100:
                raise RequestError(f"logit_bias must be in [-100, 100], got {bias} for token {token}")

    def check_vocabulary(self, vocab_size: int) -> None:
        """Check that biases are of token ids below `vocab_size`.

        Raises:
            RequestError: one is not.
        """
        LogitBias(self.logit_bias).check(vocab_size)

    @classmethod
    def from_defaults(cls, defaults: SamplingDefaults, **chosen: Any) -> "SamplingOptions":
        """The model's defaults, overridden by every `chosen` value that is not None."""
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in defaults.model_dump().items() if value is not None}
        values |= {name: value for name, value in chosen.items() if value is not None}
        return replace(cls(), **{name: value for name, value in values.items() if name in names})


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token that was chosen.

    Attributes:
        token: its id.
        logprob: its natural log-probability under the model, before all options; None unless requested.
        top_logprobs: ids and log-probabilities of the tokens that the model finds most likely, the most likely first
            and of equal ones the lowest id; empty unless requested. None of probability 0.
        ended: the answer is complete, as its constraint says.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    ended: bool = False


class Sampler:
    """Draws the tokens of a batch. Each sequence has its own random generator, penalties and state of the constraint.

    Attributes:
        options: how tokens are chosen.
        seed: of the draws; `options.seed`, or the one that was chosen at random.
    """

    def __init__(self, options: SamplingOptions, batch_size: int = 1, constraint: Constraint | None = None) -> None:
        """Begin `batch_size` answers, each of them limited by `constraint`.

        Raises:
            EdgekilnError: the constraint allows no answer.
        """
        self.options = options
        self.seed = options.seed if options.seed is not None else secrets.randbits(64)
        self._filters = _make_filters(options)
        self._generators = [SplitMix64.stream(self.seed, index) for index in range(batch_size)]
        self._bias = LogitBias(options.logit_bias)
        self._repetition = [RepetitionPenalty(options.repetition_penalty) for _ in range(batch_size)]
        self._counts = [CountPenalty(options.presence_penalty, options.frequency_penalty) for _ in range(batch_size)]
        self._states = [None if constraint is None else constraint.start() for _ in range(batch_size)]

    def observe(self, index: int, tokens: Ids) -> None:
        """Apply the repetition penalty to int64[S] `tokens`, usually the prompt, in sequence `index` of the batch."""
        self._repetition[index].observe(tokens.tolist())

    def sample(self, index: int, logits: Logits, logprob: bool = False, top_logprobs: int = 0) -> Sampled:
        """Draw the next token of sequence `index` of the batch.

        1. bias: in float32, biases are added to the logits of their tokens;
        2. penalties: in float32, logits of seen tokens are multiplied (negative) or divided (positive) by the
           repetition penalty, to at most the largest float32; presence penalty + frequency penalty * count is
           subtracted from those of the answer;
        3. constraint: only tokens that it allows are left.

        With temperature 0 it is the token with the highest logit of these, the lowest id of equal ones. Otherwise:

        4. score = (logit - highest logit) / temperature, in float32;
        5. top_k, top_p, min_p, each on the softmax of the scores that the one before kept;
        6. weight = exp(score - highest score), in float32, of the tokens that are left, in ascending order of id;
        7. the first token whose cumulative weight, in float64, exceeds uniform() times the sum of all.

        Args:
            index: batch index.
            logits: float32[V]; not modified.
            logprob: also compute the log-probability.
            top_logprobs: also return so many of the most likely tokens.

        Raises:
            EdgekilnError: the highest logit is infinite or NaN, or the constraint allows no token.
            RequestError: a bias is for a token that is not in the vocabulary.
        """
        scores = self._counts[index].apply(self._repetition[index].apply(self._bias.apply(logits)))
        token = int(scores.argmax())
        highest = scores[token]
        if not math.isfinite(highest):
            raise EdgekilnError(f"the engine's logits hold {highest}: the engine or its weights are broken")
        allowed: Ids | None = None
        state = self._states[index]
        # Most of the time a model prefers a token that is allowed. Greedy choices need no more then.
        if state is not None and not (allows(mask := state.allowed(), token) and self.options.temperature == 0):
            allowed = allowed_ids(mask, scores.size)
            scores = scores[allowed]
            highest = scores.max(initial=-np.inf)
            if highest == -np.inf:
                raise EdgekilnError("the grammar allows no token that the model can choose: give another grammar")
            token = int(allowed[scores.argmax()])
        if self.options.temperature > 0:
            with np.errstate(over="ignore"):  # -inf, of probability 0
                token = self._draw(index, (scores - highest) / divisor(self.options.temperature), allowed)
        self._repetition[index].observe((token,))
        self._counts[index].add(token)
        ended = False
        if state is not None:
            state.accept(token)
            ended = state.ended
        if not logprob and not top_logprobs:
            return Sampled(token, ended=ended)
        top = most_likely(logits, top_logprobs)
        own, *others = log_probabilities(logits, (token, *top))
        return Sampled(token, own if logprob else None, tuple(zip(top, others, strict=True)), ended)

    def _draw(self, index: int, scores: Logits, tokens: Ids | None) -> int:
        """Draw from float32[N] `scores` of int64[N] `tokens`; None for all of the vocabulary."""
        for keep in self._filters:
            kept = keep(scores)
            scores = scores[kept]
            tokens = kept if tokens is None else tokens[kept]
        chosen = pick(np.exp(scores - scores.max()), self._generators[index].uniform())
        return chosen if tokens is None else int(tokens[chosen])


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
