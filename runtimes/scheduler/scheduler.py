"""Continuous batching (Orca, Yu et al. 2022): requests join and leave the batch between two decode steps.

One thread owns the engine's KV cache. In turn it runs one chunk of a prompt and one decode step of all running answers,
so that no answer waits longer than for a chunk. Answers are the same as without other requests: kernels give a token
the same bits beside any number of other sequences (`Runtime.run_sizes`).
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids, Runtime
from edgekiln.runtimes.generate.answer import Answer
from edgekiln.runtimes.generate.generate import prompt_ids
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats, SpeculativeDecoder
from edgekiln.runtimes.sampling.sampler import Sampler
from edgekiln.runtimes.scheduler.options import QueueFullError, SchedulerOptions, ShuttingDownError
from edgekiln.runtimes.scheduler.prefix import PrefixRules
from edgekiln.runtimes.scheduler.request import OnEnd, OnToken, Request, Ticket
from edgekiln.runtimes.scheduler.slots import Slots
from edgekiln.runtimes.text.tokenizer import Tokenizer


@dataclass
class SchedulerStats:
    """What a scheduler has done so far, and does now.

    Attributes:
        waiting, running: requests.
        slots: sequences of the KV cache.
        kv_bytes: bytes of keys, values and states of running and finished sequences.
        prompt_tokens: tokens of prompts that were computed.
        cached_tokens: tokens of prompts that were taken over from earlier sequences.
        generated_tokens: tokens of answers.
        steps: number of decode steps by the number of sequences.
    """

    waiting: int = 0
    running: int = 0
    slots: int = 0
    kv_bytes: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: Counter[int] = field(default_factory=Counter)


class Scheduler:
    """Runs requests of several threads on one engine. `close` ends its thread."""

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        options: SchedulerOptions | None = None,
        sequence_bytes: Callable[[int], int] = lambda tokens: 0,
    ) -> None:
        """Start the thread.

        Args:
            runtime: the engine.
            tokenizer: the engine's tokenizer.
            options: limits.
            sequence_bytes: bytes of a sequence by its number of tokens; see `edgekiln.runtimes.cache_bytes`.

        Raises:
            RequestError: the engine does not support as many sequences.
        """
        self.options = options or SchedulerOptions()
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._bytes = sequence_bytes
        self._cache = runtime.new_cache(self.options.slots)
        self._cache.reserve(min(self.options.reserve, runtime.properties.max_length))
        self._slots = Slots(self._cache, PrefixRules(runtime.chunk, runtime.run_sizes), sequence_bytes)
        self._stats = SchedulerStats(slots=self.options.slots)
        self._waiting: deque[Request] = deque()
        self._prefilling: int | None = None  # the sequence whose prompt is not computed yet
        self._decoder: SpeculativeDecoder | None = None
        self._speculation = SpeculationStats()
        self._finished: deque[float] = deque(maxlen=16)  # times at which requests ended
        self._changed = threading.Condition()
        self._closing = False
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, prompt: str | Ids, options: GenerateOptions, on_token: OnToken, on_end: OnEnd) -> Ticket:
        """Add a request. Thread-safe, and returns at once.

        Args:
            prompt: text, or int64[S] token ids.
            options: how to generate the answer.
            on_token: called from the scheduler's thread with each token of the answer; must not block.
            on_end: called after the last token: with None, or with the error that ended the answer. An answer that was
                cancelled, or ended by `close`, has no token with a finish reason.

        Raises:
            RequestError: the prompt is empty or too long, or the request can never fit into `kv_memory`.
            QueueFullError: as many requests wait as may.
            ShuttingDownError: `close` was called.
        """
        properties = self._runtime.properties
        options.sampling.check_vocabulary(properties.vocab_size)
        ids = prompt_ids(prompt, self._tokenizer, properties)
        tokens = min(ids.size + options.max_tokens, properties.max_length)
        self._check_memory(ids.size, tokens)
        request = Request(
            ids,
            options,
            on_token,
            on_end,
            Ticket(self._wake),
            tokens,
            Answer(0, self._tokenizer, options, room=properties.max_length - ids.size),
            Sampler(options.sampling, constraint=options.constraint),
        )
        with self._changed:
            if self._closing:
                raise ShuttingDownError
            busy = sum(1 for slot in self._slots.slots if slot.request)
            if len(self._waiting) + busy >= self.options.max_waiting + self.options.slots:
                raise QueueFullError(len(self._waiting), self._retry_after_s())
            self._waiting.append(request)
            self._changed.notify_all()
        return request.ticket

    def stats(self) -> SchedulerStats:
        """What the scheduler has done, and does now. Thread-safe."""
        with self._changed:
            stats = SchedulerStats(**{**vars(self._stats), "steps": Counter(self._stats.steps)})
            stats.waiting = len(self._waiting)
            stats.running = sum(1 for slot in self._slots.slots if slot.request)
            return stats

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let those that are there end for up to `drain_s` seconds, and end the thread."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + drain_s
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _check_memory(self, prompt: int, tokens: int) -> None:
        limit, size = self.options.kv_memory, self._bytes(tokens)
        if limit is not None and size > limit:
            raise RequestError(
                f"a prompt of {prompt} tokens and an answer of up to {tokens - prompt} take {size} bytes of KV cache, "
                f"the limit is {limit}: lower max_tokens, shorten the prompt or raise --kv-memory"
            )

    def _retry_after_s(self) -> float:
        """The mean time between the ends of the last requests; 1 second if that is not known."""
        if len(self._finished) < 2:
            return 1.0
        return max(1.0, (self._finished[-1] - self._finished[0]) / (len(self._finished) - 1))

    def _run(self) -> None:
        while self._await_work():
            try:
                self._end_cancelled()
                self._prefill_chunk()
                if self._decoding():
                    self._step()
            except Exception as error:
                self._end_all(error)

    def _await_work(self) -> bool:
        """Wait for a request; False when the thread has to end."""
        with self._changed:
            while not self._closing and not self._waiting and not self._slots.span:
                self._changed.wait()
            if not self._closing:
                return True
            if (self._waiting or self._slots.span) and time.monotonic() < self._deadline:
                return True
        self._end_all(None)
        return False

    def _decoding(self) -> dict[int, Request]:
        """The requests whose prompts are computed, by sequence."""
        slots = enumerate(self._slots.slots)
        return {i: slot.request for i, slot in slots if slot.request and i != self._prefilling}

    def _end_cancelled(self) -> None:
        with self._changed:
            cancelled = [request for request in self._waiting if request.ticket.cancelled]
            for request in cancelled:
                self._waiting.remove(request)
        for request in cancelled:
            request.on_end(None)
        for index, slot in enumerate(self._slots.slots):
            if slot.request and slot.request.ticket.cancelled:
                self._end(index, None)
        self._compact()

    def _prefill_chunk(self) -> None:
        """Run a chunk of prompts: one of a long prompt, or several short ones."""
        left = self._runtime.chunk
        self._admit()
        while self._prefilling is not None:
            request = self._slots.slots[self._prefilling].request
            assert request is not None
            if request.runs[-1] > left:
                return
            left -= request.runs[-1]
            self._prefill(self._prefilling)
            self._admit()

    def _admit(self) -> None:
        """Give the request that has waited longest a sequence, if one is free and no other prompt is being computed."""
        index = self._slots.free()
        if self._prefilling is not None or index is None or not self._waiting:
            return
        request = self._waiting[0]
        self._end_speculation()
        with self._changed:
            if not self._slots.make_room(self._bytes(request.tokens), self.options.kv_memory):
                return  # until a running request ends
            self._waiting.popleft()
            self._prefilling = index
            reused = self._slots.place(request, index)
            self._cache.pause(index)  # decode steps beside its prompt leave it as it is
            self._stats.cached_tokens += reused
            self._stats.kv_bytes = self._slots.held_bytes()
        request.ticket.cached_tokens = reused
        request.sampler.observe(0, request.prompt)
        self._cache.reserve(request.prompt.size + 1)

    def _prefill(self, index: int) -> None:
        """Run a chunk of the prompt of a sequence, and draw the first token of its answer after the last one."""
        request = self._slots.slots[index].request
        assert request is not None
        start = int(self._cache.lengths[index])
        size = request.runs.pop()
        try:
            logits = self._runtime.prefill(self._cache, index, request.prompt[start : start + size])
        except EdgekilnError as error:
            self._end(index, error, keep=False)
            return
        self._slots.extend(index, size)
        with self._changed:
            self._stats.prompt_tokens += size
        if request.runs:
            self._cache.pause(index)
            return
        self._prefilling = None
        self._draw(index, request, logits)
        self._compact()

    def _step(self) -> None:
        """Decode step of all requests whose prompts are computed."""
        requests = self._decoding()
        tokens: Ids = np.zeros(max(requests) + 1, dtype=np.int64)
        for index, request in requests.items():
            tokens[index] = request.next_token
        logits = self._decode(tokens, requests)
        with self._changed:
            self._stats.steps[len(requests)] += 1
        for index, request in requests.items():
            self._draw(index, request, logits[index])
        self._compact()

    def _decode(self, tokens: Ids, requests: dict[int, Request]) -> np.ndarray:
        request = requests.get(0)
        alone = len(requests) == 1 and request is not None and self._prefilling is None
        if not (alone and request and request.options.speculate and self._runtime.max_verify_tokens > 1):
            self._end_speculation()
            return self._runtime.step(self._cache, tokens)
        if self._decoder is None:
            self._decoder = SpeculativeDecoder(
                self._runtime, self._cache, self._cache.tokens(0).copy(), self._speculation
            )
        return self._decoder.step(int(tokens[0]), request.answer.left)[None]

    def _end_speculation(self) -> None:
        """Remove draft tokens that were not accepted from the KV cache."""
        if self._decoder is not None:
            self._decoder.drop_unused()
            self._decoder = None

    def _draw(self, index: int, request: Request, logits: np.ndarray) -> None:
        """Draw the next token of an answer, and end the answer with its last one."""
        try:
            options = request.options
            sampled = request.sampler.sample(0, logits, options.logprobs, options.top_logprobs)
        except EdgekilnError as error:
            self._end(index, error, keep=False)
            return
        result = request.answer.add(sampled)
        request.next_token = sampled.token
        with self._changed:
            self._stats.generated_tokens += 1
        request.on_token(result)
        if result.finish_reason is not None:
            self._end(index, None)

    def _end(self, index: int, error: BaseException | None, keep: bool = True) -> None:
        """End the answer of a sequence, which stays in the cache for later prompts."""
        request = self._slots.slots[index].request
        assert request is not None
        self._end_speculation()
        if self._prefilling == index:
            self._prefilling = None
        with self._changed:
            self._slots.finish(index, keep)
            self._finished.append(time.monotonic())
            self._stats.kv_bytes = self._slots.held_bytes()
        request.on_end(error)

    def _compact(self) -> None:
        """Move the last running sequences into free ones before them, but for one that the next prompt will take."""
        for index in self._holes():
            if self._waiting and self._prefilling is None and index == self._slots.free():
                self._cache.pause(index)
                continue
            last = self._slots.span - 1
            if index >= last:
                return
            self._end_speculation()
            with self._changed:
                self._slots.compact(index)
            if self._prefilling == last:
                self._prefilling = index

    def _holes(self) -> Iterator[int]:
        for index in range(len(self._slots.slots)):
            if index < self._slots.span and self._slots.slots[index].request is None:
                yield index

    def _end_all(self, error: BaseException | None) -> None:
        """End all requests, after an error that is not one of them alone, or at the end."""
        self._decoder = None
        self._prefilling = None
        with self._changed:
            waiting = list(self._waiting) if error is None else []
            for _ in waiting:
                self._waiting.popleft()
        for index, slot in enumerate(self._slots.slots):
            if slot.request:
                self._end(index, error, keep=error is None)
        for request in waiting:
            request.on_end(None)
