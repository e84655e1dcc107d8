"""The requests that share the decode steps of an engine: chunks of their prompts, their steps, and their ends."""

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, Logits, Runtime
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats, SpeculativeDecoder
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.scheduler.prefix import PrefixRules
from edgekiln.runtimes.scheduler.prefix_store import PrefixStore
from edgekiln.runtimes.scheduler.request import Request
from edgekiln.runtimes.scheduler.slots import Slots
from edgekiln.runtimes.scheduler.stats import SchedulerStats

# Up to so many tokens a sequence, and bytes in all, the KV cache may take huge pages. What they waste grows with its
# room; without them decode steps of SmolLM2-135M take 6 to 14% longer.
_DENSE_TOKENS, _DENSE_BYTES = 1024, 512 << 20


class Batch:
    """Requests over one KV cache. Of one thread, but for `stats`, which only this thread changes.

    At most one prompt is unfinished. A request that runs alone uses speculative decoding.

    Attributes:
        stats: counts, without the requests that wait.
        ended: times at which the last requests ended, of `time.monotonic`.
    """

    def __init__(self, runtime: Runtime, options: SchedulerOptions, sequence_bytes: Callable[[int], int]) -> None:
        """Without requests; see `edgekiln.runtimes.scheduler.scheduler.Scheduler`."""
        self.stats = SchedulerStats(slots=options.slots)
        self.ended: deque[float] = deque(maxlen=16)
        self._runtime = runtime
        self._options = options
        self._cache = runtime.new_cache(options.slots)
        self._bytes = sequence_bytes
        self._reserve = min(options.reserve, options.longest_sequence(runtime.properties.max_length))
        dense = _DENSE_BYTES * _DENSE_TOKENS // max(1, options.slots * sequence_bytes(_DENSE_TOKENS))
        self._cache.reserve(min(self._reserve, _DENSE_TOKENS, dense))
        self._rules = PrefixRules(runtime.chunk, runtime.run_sizes)
        self._store: PrefixStore | None = None
        if options.prefix_cache is not None:
            if not self._cache.can_save:
                raise RequestError(
                    f"engines of {runtime.properties.target} have no prefix cache on disk: leave prefix_cache out"
                )
            self._store = PrefixStore(options.prefix_cache, runtime.sequence_key, options.prefix_cache_size)
        self._slots = Slots(self._cache, self._rules, sequence_bytes, self._store)
        self._prefilling: int | None = None  # the sequence whose prompt is unfinished
        self._decoder: SpeculativeDecoder | None = None
        self._speculation = SpeculationStats()

    def close(self) -> None:
        """Wait until prefixes are on disk."""
        if self._store is not None:
            self._store.close()

    def __len__(self) -> int:
        """The number of requests."""
        return self.stats.running

    def request_bytes(self, tokens: int) -> int:
        """The bytes that a request of so many tokens needs: without pages, every sequence becomes as long."""
        return self._bytes(tokens) * (1 if self._cache.is_paged else self._options.slots)

    @property
    def decoding(self) -> bool:
        """Whether there are requests whose prompts are computed."""
        return self.stats.running > (self._prefilling is not None)

    @property
    def unfinished_prompt(self) -> int:
        """The tokens of the unfinished prompt, but for those that it has taken over."""
        if self._prefilling is None:
            return 0
        request = self._request(self._prefilling)
        return request.prompt.size - request.ticket.cached_tokens

    def admit(self, request: Request) -> bool:
        """Give a request a sequence; its prompt is computed by `prefill`. Without memory for it, its answer ends.

        Returns:
            False if no sequence is free, the memory of those that run is needed, or another prompt is unfinished.
        """
        index = self._slots.free()
        if self._prefilling is not None or index is None:
            return False
        self._end_speculation()
        if not self._slots.make_room(self.request_bytes(request.tokens), self._options.kv_memory):
            return False
        self._prefilling = index
        try:
            self._make_room(request.prompt.size + 1)
            reused = self._slots.place(request, index)
        except Exception as error:  # of memory: the other requests go on
            self._slots.slots[index].request = request
            self._end(index, error, keep=False)
            return True
        self._cache.pause(index)  # decode steps beside its prompt leave it as it is
        request.ticket.cached_tokens = reused
        request.sampler.observe(0, request.prompt)
        self.stats.cached_tokens += reused
        self._count()
        return True

    def prefill(self, most: int, more: bool) -> int:
        """Run the next tokens of the unfinished prompt.

        After its last tokens, the first token of the answer is drawn.

        Args:
            most: tokens of the run.
            more: run more tokens than `most` if they cannot be cut.

        Returns:
            The number of tokens; 0 if none were run.
        """
        index = self._prefilling
        if index is None:
            return 0
        request = self._request(index)
        size = self._rules.part(request.runs[-1], most)
        if size > most and not more:
            return 0
        request.runs[-1] -= size
        if not request.runs[-1]:
            request.runs.pop()
        start = int(self._cache.lengths[index])
        try:
            logits = self._runtime.prefill(self._cache, index, request.prompt[start : start + size])
        except EdgekilnError as error:
            self._end(index, error, keep=False)
            return size
        self._slots.extend(index, size)
        self.stats.prompt_tokens += size
        if request.runs:
            self._cache.pause(index)
        else:
            self._prefilling = None
            self._draw(index, request, logits)
        return size

    def step(self) -> None:
        """Decode step of all requests whose prompts are computed."""
        requests = {i: each for i, each in self._slots.requests().items() if i != self._prefilling}
        if not requests:
            return
        tokens: Ids = np.zeros(max(requests) + 1, dtype=np.int64)
        for index, request in requests.items():
            tokens[index] = request.next_token
        logits = self._decode(tokens, requests)
        self.stats.steps[len(requests)] += 1
        for index, request in requests.items():
            self._draw(index, request, logits[index])

    def compact(self, next_waits: bool) -> None:
        """Move the last running sequences into free ones before them.

        Args:
            next_waits: a request waits, and will take the first free sequence.
        """
        kept = self._slots.free() if next_waits and self._prefilling is None else None
        for hole in range(len(self._slots.slots)):
            last = self._slots.span - 1
            if hole > last:
                return
            if self._slots.slots[hole].request is not None:
                continue
            if hole == kept:
                self._cache.pause(hole)
                continue
            self._end_speculation()
            self._slots.swap(hole, last)
            if self._prefilling == last:
                self._prefilling = hole

    def end_cancelled(self) -> None:
        """End the answers whose senders have cancelled them."""
        for index, request in self._slots.requests().items():
            if request.ticket.cancelled:
                self._end(index, None)

    def end_all(self, error: BaseException | None) -> None:
        """End all answers, after an error that is not one of them alone, or at a shutdown."""
        self._decoder = None
        self._prefilling = None
        for index in self._slots.requests():
            self._end(index, error, keep=error is None)

    def _request(self, index: int) -> Request:
        request = self._slots.slots[index].request
        assert request is not None
        return request

    def _make_room(self, length: int) -> None:
        """Make room for a sequence of `length` tokens.

        The first growth takes all that is reserved, so that there is no other one.
        """
        if self._cache.capacity < length <= self._reserve:
            self._cache.reserve(self._reserve, sparse=True)
        self._cache.reserve(length)

    def _decode(self, tokens: Ids, requests: dict[int, Request]) -> Logits:
        longest = max(int(self._cache.lengths[index]) for index in requests)
        self._make_room(min(longest + self._runtime.max_verify_tokens, self._runtime.properties.max_length))
        alone = requests.get(0) if len(requests) == 1 and self._prefilling is None else None
        if alone is None or not alone.options.speculate or self._runtime.max_verify_tokens == 1:
            self._end_speculation()
            return self._runtime.step(self._cache, tokens)
        if self._decoder is None:
            before = self._cache.tokens(0).copy()
            self._decoder = SpeculativeDecoder(self._runtime, self._cache, before, self._speculation)
        return self._decoder.step(int(tokens[0]), alone.answer.left)[None]

    def _end_speculation(self) -> None:
        """Remove draft tokens that were not accepted from the KV cache."""
        if self._decoder is not None:
            self._decoder.drop_unused()
            self._decoder = None

    def _draw(self, index: int, request: Request, logits: Logits) -> None:
        """Draw the next token of an answer, and end the answer with its last one."""
        options = request.options
        try:
            sampled = request.sampler.sample(0, logits, options.logprobs, options.top_logprobs)
        except EdgekilnError as error:
            self._end(index, error, keep=False)
            return
        result = request.answer.add(sampled)
        request.next_token = sampled.token
        self.stats.generated_tokens += 1
        request.on_token(result)
        if result.finish_reason is not None:
            self._end(index, None)

    def _end(self, index: int, error: BaseException | None, keep: bool = True) -> None:
        """End the answer of a sequence, which stays in the cache for later prompts."""
        request = self._request(index)
        self._end_speculation()
        if self._prefilling == index:
            self._prefilling = None
        self._slots.finish(index, keep)
        self.ended.append(time.monotonic())
        self._count()
        request.on_end(error)

    def _count(self) -> None:
        self.stats.running = len(self._slots.requests())
        self.stats.kv_bytes = self._slots.held_bytes()
