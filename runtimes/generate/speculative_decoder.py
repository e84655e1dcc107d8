"""Speculative decoding: a token and the draft that follows it are verified in a single run.

The sampler still draws every token, in order, from the same logits; a draft only means that the logits of its tokens
are available without another run. Tokens are therefore the same as without speculation. Source: speculative sampling
with a deterministic draft (Leviathan et al. 2023).
"""

import time
from dataclasses import dataclass

import numpy as np

from edgekiln.runtimes.base import Ids, KVCache, Logits, Runtime
from edgekiln.runtimes.generate.prompt_lookup import PromptLookup
from edgekiln.runtimes.generate.speculation import Speculation


@dataclass
class SpeculationStats:
    """Counts of speculative decoding.

    Attributes:
        drafted: tokens that were drafted.
        accepted: drafted tokens that the sampler chose; each saved a run.
    """

    drafted: int = 0
    accepted: int = 0


class SpeculativeDecoder:
    """Decodes a single sequence. Between steps the KV cache may hold draft tokens, which `drop_unused` removes."""

    def __init__(self, runtime: Runtime, cache: KVCache, prompt: Ids, stats: SpeculationStats) -> None:
        """Start after a prompt.

        Args:
            runtime: with `max_verify_tokens` of 2 or more.
            cache: of batch size 1; holds `prompt` when `step` is first called.
            prompt: int64[S].
            stats: updated with the counts of this decoder.
        """
        self._runtime = runtime
        self._cache = cache
        self._stats = stats
        self._lookup = PromptLookup(prompt)
        self._speculation = Speculation(runtime.max_verify_tokens - 1)
        # Of the last run: its tokens (one that was drawn, then its draft), their logits, and its time.
        self._verified: list[int] = []
        self._logits: Logits = np.empty((0, 0), dtype=np.float32)
        self._seconds = 0.0
        self._used = 0  # tokens of the last run whose logits were returned

    def step(self, token: int, left: int) -> Logits:
        """Append a token that was drawn.

        Args:
            token: its id.
            left: most tokens that may be drawn after it.

        Returns:
            float32[V], logits of its position, valid until the next call.

        Raises:
            EdgekilnError: the runtime failed.
        """
        self._lookup.append(token)
        if self._used < len(self._verified) and self._verified[self._used] == token:
            self._stats.accepted += 1
        else:
            if self._verified:
                self._speculation.observe(len(self._verified) - 1, self._used - 1, self._seconds)
            self.drop_unused()
            self._run(token, left)
        self._used += 1
        logits: Logits = self._logits[self._used - 1]
        return logits

    def drop_unused(self) -> None:
        """Remove draft tokens that were not accepted from the KV cache."""
        if rest := len(self._verified) - self._used:
            self._cache.rewind(0, int(self._cache.lengths[0]) - rest)
        self._verified, self._used = [], 0

    def _room(self) -> int:
        """Most tokens of a draft: the token before it and the draft must be on one side of `recompute_beyond`."""
        limit, length = self._runtime.properties.recompute_beyond, int(self._cache.lengths[0])
        if limit is None or length > limit:
            return self._runtime.max_verify_tokens - 1
        return max(0, limit - length - 1)

    def _run(self, token: int, left: int) -> None:
        # The answer's last token is drawn but never run, so drafting it would gain nothing.
        draft = self._lookup.draft(min(max(0, left - 1), self._speculation.draft_length(), self._room()))
        tokens = np.array([token, *draft], dtype=np.int64)
        start = time.perf_counter()
        if draft:
            self._logits = self._runtime.verify(self._cache, 0, tokens)
        else:
            self._logits = self._runtime.step(self._cache, tokens)
        self._seconds = time.perf_counter() - start
        self._stats.drafted += len(draft)
        self._verified = tokens.tolist()
