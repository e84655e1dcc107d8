"""Requests to a scheduler, and their answers."""

import threading

import numpy as np

from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.scheduler.request import Ticket
from edgekiln.runtimes.scheduler.scheduler import Scheduler

WAIT_S = 120


class Client:
    """A request and its answer."""

    def __init__(self, scheduler: Scheduler, prompt: np.ndarray, options: GenerateOptions) -> None:
        self.tokens: list[Token] = []
        self.error: BaseException | None = None
        self._ended = threading.Event()
        self.ticket: Ticket = scheduler.submit(prompt, options, self.tokens.append, self._end)

    def _end(self, error: BaseException | None) -> None:
        assert not self._ended.is_set()
        self.error = error
        self._ended.set()

    def answer(self) -> list[int]:
        """Ids of its tokens, once it has ended."""
        self.wait()
        assert self.error is None
        return [token.id for token in self.tokens]

    def wait(self) -> None:
        """Wait for its end."""
        assert self._ended.wait(WAIT_S)
