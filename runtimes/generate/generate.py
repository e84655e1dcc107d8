"""The generate loop, shared by all runtimes: prompts in, tokens with their text out, one at a time."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids, KVCache, Logits, Runtime, checked_ids
from edgekiln.runtimes.generate.answer import Answer, Token
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats, SpeculativeDecoder
from edgekiln.runtimes.properties import Properties
from edgekiln.runtimes.sampling.sampler import Sampler
from edgekiln.runtimes.text.tokenizer import Tokenizer


@dataclass
class _DecodeLoop:
    """Decode steps of a batch, with speculation if there is a `decoder`, which needs a batch size of 1."""

    runtime: Runtime
    cache: KVCache
    decoder: SpeculativeDecoder | None = None

    def step(self, tokens: Ids, left: int) -> Logits:
        """Append int64[B] `tokens`; returns float32[B, V]. At most `left` more tokens per sequence will follow."""
        if self.decoder is None:
            return self.runtime.step(self.cache, tokens)
        return self.decoder.step(int(tokens[0]), left)[None]

    def end(self) -> None:
        """Remove draft tokens that were not accepted from the KV cache."""
        if self.decoder is not None:
            self.decoder.drop_unused()


def generate(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Ids],
    options: GenerateOptions | None = None,
    cache: KVCache | None = None,
    stats: SpeculationStats | None = None,
) -> Generator[Token, None, None]:
    """Generate an answer to each prompt of a batch.

    Prompts are prefilled one by one, and each yields its first token at once. Every decode step then yields
    one token per unfinished answer.

    Args:
        runtime: the engine.
        tokenizer: the engine's tokenizer.
        prompts: texts, or int64[S] token ids.
        options: by default greedy, 256 tokens.
        cache: a KV cache with a batch size of `len(prompts)`, which may hold earlier tokens. The common prefix of its
            tokens and the prompt is not computed again, the rest is dropped. When the iterator ends or is closed, the
            cache holds each prompt and its answer but for the answer's last token. By default a new cache.
        stats: updated with the counts of speculative decoding.

    Yields:
        Tokens, in the order in which they are generated.

    Raises:
        RequestError: immediately, before the first token: no prompts, a prompt that is empty or leaves no room for an
            answer, a bias of a token that the engine does not have, or a cache of another batch size.
        EdgekilnError: while iterating: the runtime failed, or the constraint allows no token.
    """
    options = options or GenerateOptions()
    if stats is not None and not isinstance(stats, SpeculationStats):
        raise RequestError(f"stats must be a SpeculationStats, got {stats!r:.60}: name options, as in max_tokens=64")
    if isinstance(prompts, str | np.ndarray) or not len(prompts):
        raise RequestError(f"prompts must be a list of at least one, got {prompts!r:.60}")
    options.sampling.check_vocabulary(runtime.properties.vocab_size)
    ids = [prompt_ids(prompt, tokenizer, runtime.properties) for prompt in prompts]
    if cache is not None and cache.batch_size != len(ids):
        raise RequestError(
            f"the cache has batch size {cache.batch_size} for {len(ids)} prompts: give one of batch size {len(ids)}"
        )
    return _generate(runtime, tokenizer, ids, options, cache, stats or SpeculationStats())


def prompt_ids(prompt: str | Ids, tokenizer: Tokenizer, properties: Properties) -> Ids:
    """int64[S] token ids of a prompt.

    Raises:
        RequestError: the prompt is empty, or too long for an answer.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError("prompt is empty: give some text")
        prompt = tokenizer.encode(prompt, max_tokens=properties.max_length)
    ids = checked_ids(prompt, properties)
    if ids.size == properties.max_length:
        raise RequestError(
            f"prompt has {ids.size} tokens, which leaves no room for an answer in the {properties.max_length} "
            f"the engine holds: {properties.length_advice}"
        )
    return ids


def _generate(
    runtime: Runtime,
    tokenizer: Tokenizer,
    prompts: list[Ids],
    options: GenerateOptions,
    cache: KVCache | None,
    stats: SpeculationStats,
) -> Generator[Token, None, None]:
    keep = cache is not None
    if cache is None:
        cache = runtime.new_cache(len(prompts))
        cache.keep_snapshots = False
    sampler = Sampler(options.sampling, len(prompts), options.constraint)
    next_tokens: Ids = np.zeros(len(prompts), dtype=np.int64)
    active: dict[int, Answer] = {}
    finished: list[int] = []
    loop = _DecodeLoop(runtime, cache)
    if options.speculate and len(prompts) == 1 and runtime.max_verify_tokens > 1:
        loop.decoder = SpeculativeDecoder(runtime, cache, prompts[0], stats)

    def finish(index: int) -> None:
        # It stays in the batch: every decode step computes it, too. In a cache that the caller does not keep, it is
        # emptied, which saves the attention over it.
        loop.end()
        if not keep:
            cache.rewind(index, 0)
        cache.pause(index)
        finished.append(index)

    try:
        for index, prompt in enumerate(prompts):
            sampler.observe(index, prompt)
            logits = runtime.prefill(cache, index, _rewind_to_prefix(cache, index, prompt))
            sampled = sampler.sample(index, logits, options.logprobs, options.top_logprobs)
            answer = Answer(index, tokenizer, options, room=runtime.properties.max_length - prompt.size)
            result = answer.add(sampled)
            if result.finish_reason is None:
                active[index] = answer
                next_tokens[index] = sampled.token
            else:
                finish(index)
            yield result
        while active:
            step_logits = loop.step(next_tokens, min(answer.left for answer in active.values()))
            for index, answer in list(active.items()):
                sampled = sampler.sample(index, step_logits[index], options.logprobs, options.top_logprobs)
                next_tokens[index] = sampled.token
                result = answer.add(sampled)
                if result.finish_reason is not None:
                    del active[index]
                    finish(index)
                yield result
    finally:
        loop.end()
        for index in finished:
            cache.rewind(index, int(cache.lengths[index]))  # ends the pause


def _rewind_to_prefix(cache: KVCache, index: int, prompt: Ids) -> Ids:
    """Rewind a sequence to its common prefix with the prompt; returns the rest of the prompt, at least its last token.

    The last token always runs, because its logits choose the first token of the answer. Where the cache cannot keep the
    prefix, the whole prompt runs.
    """
    cached = cache.tokens(index)
    most = min(cached.size, prompt.size - 1)
    different = np.flatnonzero(cached[:most] != prompt[:most])
    shared = int(different[0]) if different.size else most
    return prompt[cache.rewind(index, shared) :]
