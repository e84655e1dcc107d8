"""The loop every runtime shares: prompts go in, tokens with their text come out one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids, KVCache, Logits, Properties, Runtime, checked_ids
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats, SpeculativeDecoder
from edgekiln.runtimes.generate.stop import StopMatcher
from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate.

    Attributes:
        max_tokens: tokens of an answer, the ending one included.
        sampling: how each token is chosen.
        stop: an answer ends before the first of these strings; they are looked for in its text, not in its tokens.
        ignore_eos: go on after the model's own end, to `max_tokens`.
        logprobs: give each token's log-probability.
        speculate: draft tokens of a single prompt's answer from what repeats, and verify them together, where that is
            faster and the runtime gives the same bits; the answer is the same.

    Raises:
        RequestError: a value is out of its range.
    """

    max_tokens: int = 256
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    speculate: bool = True

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise RequestError(f"stop must be a tuple of strings that are not empty, got {self.stop!r}")


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        row: index of the prompt it answers.
        id: token id.
        text: what it adds to the answer; often empty, and after the last token whole characters only. Pieces of a row
            put together are its answer.
        logprob: natural log-probability under the model, before penalty, temperature and filters; None unless asked.
        finish_reason: None but for a row's last token.
    """

    row: int
    id: int
    text: str
    logprob: float | None
    finish_reason: FinishReason | None


class _Answer:
    """One row's answer so far: where its text stands and when it ends."""

    def __init__(self, row: int, tokenizer: Tokenizer, options: GenerateOptions, room: int) -> None:
        self._row = row
        self._decoder = tokenizer.stream()
        self._stop = StopMatcher(options.stop)
        self._eos: frozenset[int] = frozenset() if options.ignore_eos else tokenizer.eos_ids
        self.left = min(options.max_tokens, room)  # tokens that may yet come

    def take(self, token: int, logprob: float | None) -> Token:
        """Add a token."""
        self.left -= 1
        reason: FinishReason | None = None
        if token in self._eos:
            text, reason = self._rest("eos")
        else:
            text, stopped = self._stop.push(self._decoder.push(token))
            if stopped:
                reason = "stop"
            elif self.left == 0:
                rest, reason = self._rest("length")
                text += rest
        return Token(self._row, token, text, logprob, reason)

    def _rest(self, reason: FinishReason) -> tuple[str, FinishReason]:
        text, stopped = self._stop.push(self._decoder.flush())
        return (text, "stop") if stopped else (text + self._stop.flush(), reason)


@dataclass
class _Steps:
    """Steps the rows of a cache; a single one by `decoder`, where there is one."""

    runtime: Runtime
    cache: KVCache
    decoder: SpeculativeDecoder | None = None

    def step(self, tokens: Ids, left: int) -> Logits:
        """float32[B, V] after int64[B] `tokens`, behind which at most `left` more are wanted of each row."""
        if self.decoder is None:
            return self.runtime.step(self.cache, tokens)
        return self.decoder.step(int(tokens[0]), left)[None]

    def end(self) -> None:
        """Have the cache hold no more than the tokens of the steps."""
        if self.decoder is not None:
            self.decoder.forget_rest()


def generate(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Ids],
    options: GenerateOptions | None = None,
    cache: KVCache | None = None,
    stats: SpeculationStats | None = None,
) -> Iterator[Token]:
    """Answer a batch of prompts.

    The rows' first tokens come as each prompt is read, then one token of every unfinished row a step.

    Args:
        runtime: the engine.
        tokenizer: its tokenizer.
        prompts: texts, or int64[S] token ids, one a row.
        options: greedy, 256 tokens, unless told otherwise.
        cache: a cache of `len(prompts)` rows that may hold earlier tokens. What a row's prompt shares with what its row
            holds is not computed again; the rest of the row is forgotten. At the end, or when the iterator is dropped,
            it holds each prompt and its answer but for the answer's last token.
        stats: counts the tokens that are drafted.

    Raises:
        RequestError: at once, not with the first token: there is no prompt, one is empty or leaves no room for an
            answer, or the cache has another number of rows.
        EdgekilnError: while iterating: the runtime failed.
    """
    options = options or GenerateOptions()
    if isinstance(prompts, str | np.ndarray) or not len(prompts):
        raise RequestError(f"prompts must be a list of at least one, got {prompts!r:.60}")
    ids = [_prompt_ids(prompt, tokenizer, runtime.properties) for prompt in prompts]
    if cache is not None and cache.batch_size != len(ids):
        raise RequestError(f"the cache has {cache.batch_size} rows for {len(ids)} prompts: give one of as many rows")
    return _generate(runtime, tokenizer, ids, options, cache, stats or SpeculationStats())


def _prompt_ids(prompt: str | Ids, tokenizer: Tokenizer, properties: Properties) -> Ids:
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError("prompt is empty: give some text")
        prompt = tokenizer.encode(prompt)
    ids = checked_ids(prompt, properties)
    if ids.size == properties.max_length:
        raise RequestError(
            f"prompt has {ids.size} tokens, which leaves no room for an answer in the {properties.max_length} "
            "the engine holds: raise --max-length at export"
        )
    return ids


def _generate(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: list[Ids],
    options: GenerateOptions,
    cache: KVCache | None,
    stats: SpeculationStats,
) -> Iterator[Token]:
    keep = cache is not None
    if cache is None:
        cache = runtime.new_cache(len(prompts))
    sampler = Sampler(options.sampling, rows=len(prompts))
    following: Ids = np.zeros(len(prompts), dtype=np.int64)
    active: dict[int, _Answer] = {}
    # Finished rows stay in the batch: each step they are fed a token that is forgotten. A row whose history nobody
    # needs is emptied, which spares the attention over it.
    parked: dict[int, int] = {}
    steps = _Steps(runtime, cache)
    if options.speculate and len(prompts) == 1 and runtime.max_verify_tokens > 1:
        steps.decoder = SpeculativeDecoder(runtime, cache, prompts[0], stats)

    def park(row: int) -> None:
        steps.end()
        parked[row] = int(cache.lengths[row]) if keep else 0
        cache.rewind(row, parked[row])

    for row, prompt in enumerate(prompts):
        sampler.observe(row, prompt)
        logits = runtime.prefill(cache, row, _not_held(cache, row, prompt))
        token, logprob = sampler.sample(row, logits, options.logprobs)
        answer = _Answer(row, tokenizer, options, room=runtime.properties.max_length - prompt.size)
        result = answer.take(token, logprob)
        if result.finish_reason is None:
            active[row] = answer
            following[row] = token
        else:
            park(row)
        yield result

    try:
        while active:
            step_logits = steps.step(following, min(answer.left for answer in active.values()))
            for row, length in parked.items():
                cache.rewind(row, length)
            for row, answer in list(active.items()):
                token, logprob = sampler.sample(row, step_logits[row], options.logprobs)
                following[row] = token
                result = answer.take(token, logprob)
                if result.finish_reason is not None:
                    del active[row]
                    park(row)
                yield result
    finally:
        steps.end()


def _not_held(cache: KVCache, row: int, prompt: Ids) -> Ids:
    """Rewind the row to what it shares with `prompt`; the rest of the prompt, at least its last token."""
    held = cache.tokens(row)
    most = min(held.size, prompt.size - 1)
    different = np.flatnonzero(held[:most] != prompt[:most])
    shared = int(different[0]) if different.size else most
    cache.rewind(row, shared)
    return prompt[shared:]
