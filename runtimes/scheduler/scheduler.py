"""Continuous batching (Orca, Yu et al. 2022): requests join and leave the batch between two decode steps.

One thread owns the engine's KV cache. In turn it runs a part of a prompt and one decode step of all running answers, so
that no answer waits longer than for that part. Answers are the same as without other requests: kernels give a token
the same bits beside any number of other sequences (`Runtime.run_sizes`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids, Runtime
from edgekiln.runtimes.generate.answer import Answer
from edgekiln.runtimes.generate.generate import prompt_ids
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import Sampler
from edgekiln.runtimes.scheduler.batch import Batch
from edgekiln.runtimes.scheduler.options import QueueFullError, SchedulerOptions, ShuttingDownError
from edgekiln.runtimes.scheduler.request import OnEnd, OnToken, Request, Ticket
from edgekiln.runtimes.scheduler.stats import SchedulerStats
from edgekiln.runtimes.text.tokenizer import Tokenizer


class Scheduler:
    """Runs requests of several threads on one engine. `close` ends its thread.

    Attributes:
        options: limits.
        max_length: tokens of a prompt and its answer, at most.
    """

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
        self.max_length = self.options.longest_sequence(runtime.properties.max_length)
        self._tokenizer = tokenizer
        self._batch = Batch(runtime, self.options, sequence_bytes)
        self._waiting: deque[Request] = deque()
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
        if ids.size >= self.max_length:
            raise RequestError(
                f"prompt has {ids.size} tokens, the limit is {self.max_length} with the answer: "
                "shorten it or raise --max-length"
            )
        tokens = min(ids.size + options.max_tokens, self.max_length)
        self._check_memory(ids.size, tokens)
        request = Request(
            ids,
            options,
            on_token,
            on_end,
            Ticket(self._wake),
            tokens,
            Answer(0, self._tokenizer, options, room=self.max_length - ids.size),
            Sampler(options.sampling, constraint=options.constraint),
        )
        with self._changed:
            if self._closing:
                raise ShuttingDownError
            if len(self._waiting) + len(self._batch) >= self.options.max_waiting + self.options.slots:
                raise QueueFullError(len(self._waiting), self._retry_after_s())
            self._waiting.append(request)
            self._changed.notify_all()
        return request.ticket

    def stats(self) -> SchedulerStats:
        """What the scheduler has done, and does now. Thread-safe."""
        with self._changed:
            stats = self._batch.stats.copy()
            stats.waiting = len(self._waiting)
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
        limit, size = self.options.kv_memory, self._batch.request_bytes(tokens)
        if limit is not None and size > limit:
            raise RequestError(
                f"a prompt of {prompt} tokens and an answer of up to {tokens - prompt} take {size} bytes of KV cache, "
                f"the limit is {limit}: lower max_tokens, shorten the prompt or raise --kv-memory"
            )

    def _retry_after_s(self) -> float:
        """The mean time between the ends of the last requests; 1 second if that is not known."""
        ended = list(self._batch.ended)
        return max(1.0, (ended[-1] - ended[0]) / (len(ended) - 1)) if len(ended) > 1 else 1.0

    def _run(self) -> None:
        while self._await_work():
            try:
                self._end_cancelled()
                self._prefill()
                self._batch.compact(bool(self._waiting))
                self._batch.step()
            except Exception as error:
                self._batch.end_all(error)
        self._batch.end_all(None)
        with self._changed:
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for request in waiting:
            request.on_end(None)
        self._batch.close()

    def _await_work(self) -> bool:
        """Wait for a request; False when the thread has to end."""
        with self._changed:
            while not self._closing and not self._waiting and not self._batch:
                self._changed.wait()
            busy = bool(self._waiting or self._batch)
            return not self._closing or (busy and time.monotonic() < self._deadline)

    def _end_cancelled(self) -> None:
        with self._changed:
            cancelled = [request for request in self._waiting if request.ticket.cancelled]
            for request in cancelled:
                self._waiting.remove(request)
        for request in cancelled:
            request.on_end(None)
        self._batch.end_cancelled()

    def _prefill(self) -> None:
        """Compute the next tokens of a prompt, or all of several short ones."""
        self._admit()
        left = most = self._prompt_tokens()
        while size := self._batch.prefill(left, more=left == most):
            left -= size
            if left <= 0:
                return
            self._admit()

    def _admit(self) -> None:
        if self._waiting and self._batch.admit(self._waiting[0]):
            with self._changed:
                self._waiting.popleft()

    def _prompt_tokens(self) -> int:
        """The tokens of prompts that are computed before the next step.

        Without running answers these are a chunk, and with no more of them than requests that wait half of it. Else two
        for each answer, with which a step takes about three times as long and prompts twice as long as the answers keep
        all slots busy, or an eighth of the prompt, from an eighth up to a quarter of a chunk.
        """
        chunk, running = self._runtime.chunk, self._batch.stats.running
        if not self._batch.decoding:
            return chunk
        if running <= len(self._waiting):
            return max(1, chunk // 2)
        wanted = max(chunk // 8, 2 * running, self._batch.unfinished_prompt // 8)
        return max(1, min(wanted, chunk // 4))
