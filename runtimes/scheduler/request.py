"""A request of a scheduler, from its arrival to the end of its answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.generate.answer import Answer, Token
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import Sampler

OnToken = Callable[[Token], None]
OnEnd = Callable[[BaseException | None], None]


class Ticket:
    """A request as its sender sees it. Thread-safe.

    Attributes:
        cached_tokens: tokens of the prompt that were taken over from an earlier sequence; known before the first token.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.cached_tokens = 0
        self.cancelled = False
        self._wake = wake

    def cancel(self) -> None:
        """End the answer before the next token; without effect after its end."""
        self.cancelled = True
        self._wake()


@dataclass(eq=False)
class Request:
    """A request that waits or runs.

    Attributes:
        prompt: int64[S].
        options: how to generate the answer.
        on_token, on_end: see `Scheduler.submit`.
        ticket: what the sender holds.
        tokens: most tokens of prompt and answer.
        arrived: of `time.monotonic`.
        runs: sizes of the prompt's runs that are left, last one first.
        answer, sampler: from the first run on.
        next_token: the token that the next decode step appends.
    """

    prompt: Ids
    options: GenerateOptions
    on_token: OnToken
    on_end: OnEnd
    ticket: Ticket
    tokens: int
    answer: Answer
    sampler: Sampler
    arrived: float = field(default_factory=time.monotonic)
    runs: list[int] = field(default_factory=list)
    next_token: int = 0
