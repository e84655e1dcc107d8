"""Decoding with drafts: the token of a step and those drafted behind it are verified in one run.

The answer's own sampler draws every token, in order, and a draft only says which logits are at hand already: tokens are
those of decoding one by one. Source: speculative sampling with a deterministic draft (Leviathan et al. 2023).
"""

import time
from dataclasses import dataclass

import numpy as np

from edgekiln.runtimes.base import Ids, KVCache, Logits, Runtime
from edgekiln.runtimes.generate.prompt_lookup import PromptLookup
from edgekiln.runtimes.generate.speculation import Speculation


@dataclass
class SpeculationStats:
    """What became of the tokens that were drafted.

    Attributes:
        drafted: tokens copied from what the sequence repeats.
        accepted: of those, the ones that the answer went on with; each spared it a run.
    """

    drafted: int = 0
    accepted: int = 0


class SpeculativeDecoder:
    """Steps the one row of a cache, which may hold tokens of a draft until the next step or `forget_rest`."""

    def __init__(self, runtime: Runtime, cache: KVCache, prompt: Ids, stats: SpeculationStats) -> None:
        """Begin behind int64[S] `prompt`, which the cache is to hold by the first step; count in `stats`."""
        self._runtime = runtime
        self._cache = cache
        self._stats = stats
        self._lookup = PromptLookup(prompt)
        self._speculation = Speculation(runtime.max_verify_tokens - 1)
        # The last run: a token that was given and its draft, logits of each of them, and its time.
        self._verified: list[int] = []
        self._logits: Logits = np.empty((0, 0), dtype=np.float32)
        self._seconds = 0.0
        self._given = 0  # of the last run's tokens

    def step(self, token: int, left: int) -> Logits:
        """Go on with `token`, behind which at most `left` more tokens are wanted.

        Returns:
            float32[V], logits of its position; valid until the next call.

        Raises:
            EdgekilnError: the runtime failed.
        """
        self._lookup.append(token)
        if self._given < len(self._verified) and self._verified[self._given] == token:
            self._stats.accepted += 1
        else:
            if self._verified:
                self._speculation.observe(len(self._verified) - 1, self._given - 1, self._seconds)
            self.forget_rest()
            self._run(token, left)
        self._given += 1
        logits: Logits = self._logits[self._given - 1]
        return logits

    def forget_rest(self) -> None:
        """Take out of the cache what is left of the draft."""
        if rest := len(self._verified) - self._given:
            self._cache.rewind(0, int(self._cache.lengths[0]) - rest)
        self._verified, self._given = [], 0

    def _run(self, token: int, left: int) -> None:
        # The last token wanted is drawn and not run, so it need not be drafted.
        draft = self._lookup.draft(min(max(0, left - 1), self._speculation.draft_length()))
        tokens = np.array([token, *draft], dtype=np.int64)
        start = time.perf_counter()
        if draft:
            self._logits = self._runtime.verify(self._cache, 0, tokens)
        else:
            self._logits = self._runtime.step(self._cache, tokens)
        self._seconds = time.perf_counter() - start
        self._stats.drafted += len(draft)
        self._verified = tokens.tolist()
