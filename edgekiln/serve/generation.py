"""The answers to one request: submitted to the scheduler together, read in the event loop, ended together."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.scheduler.request import Ticket
from edgekiln.runtimes.scheduler.scheduler import Scheduler
from edgekiln.serve.mailbox import Mailbox
from edgekiln.serve.metrics import Metrics

# Tokens that arrived together, each with the index of its answer.
Arrived = list[tuple[int, Token]]


class ClientGoneError(Exception):
    """The client has closed its connection: nobody reads the answer."""


class Generation:
    """Answers that the scheduler computes at the same time.

    Use it with `async with`, inside which `arrivals` is read; at its end, answers that still run are cancelled.

    Attributes:
        prompt_tokens: of all prompts.
        completion_tokens: generated so far.
        first_token_s: seconds from the start to the first token; None before it.
    """

    def __init__(self, mailbox: Mailbox, metrics: Metrics, model: str) -> None:
        """Nothing is submitted yet."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.first_token_s: float | None = None
        self._mailbox = mailbox
        self._latencies = metrics.latencies(model)
        self._start = time.perf_counter()
        self._tickets: dict[int, Ticket] = {}
        self._prompts: list[int] = []  # indices of the first answer to each prompt
        self._last: list[float] = []  # when the last token of each answer arrived
        self._running = 0
        self._arrived: Arrived = []
        self._error: BaseException | None = None
        self._wake: asyncio.Future[None] | None = None

    def submit(self, scheduler: Scheduler, prompts: Sequence[Ids], options: Sequence[GenerateOptions]) -> None:
        """Submit len(options) answers to each prompt; the answers of a prompt have consecutive indices.

        Raises:
            RequestError, QueueFullError, ShuttingDownError: as in `Scheduler.submit`; nothing stays submitted.
        """
        try:
            for prompt in prompts:
                self._prompts.append(len(self._last))
                self.prompt_tokens += len(prompt)
                for each in options:
                    self._submit(scheduler, prompt, each)
        except BaseException:
            self.close()
            raise

    def _submit(self, scheduler: Scheduler, prompt: Ids, options: GenerateOptions) -> None:
        index = len(self._last)
        self._last.append(self._start)
        self._tickets[index] = scheduler.submit(
            prompt,
            options,
            functools.partial(self._mailbox.post, functools.partial(self._on_token, index)),
            functools.partial(self._mailbox.post, functools.partial(self._on_end, index)),
        )
        self._running += 1

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were in the cache; those of a prompt count once."""
        return sum(self._tickets[index].cached_tokens for index in self._prompts if index in self._tickets)

    def _on_token(self, index: int, token: Token) -> None:
        now = time.perf_counter()
        if self.first_token_s is None:
            self.first_token_s = now - self._start
        self._latencies.token(now - self._last[index], first=self._last[index] == self._start)
        self._last[index] = now
        self.completion_tokens += 1
        self._arrived.append((index, token))
        self._notify()

    def _on_end(self, _index: int, error: BaseException | None) -> None:
        self._running -= 1
        if error is not None:
            self.abort(error)
        self._notify()

    def abort(self, error: BaseException) -> None:
        """End all answers; `arrivals` raises `error`."""
        if self._error is None:
            self._error = error
        self.close()
        self._notify()

    def close(self) -> None:
        """Cancel the answers that still run."""
        for ticket in self._tickets.values():
            ticket.cancel()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def arrivals(self) -> AsyncIterator[Arrived]:
        """The tokens, as they arrive, until all answers have ended.

        Raises:
            Exception: that of `abort`, or of an answer that failed.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._arrived:
                arrived, self._arrived = self._arrived, []
                yield arrived
            elif self._running == 0:
                return
            else:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
