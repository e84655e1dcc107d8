"""Answers to many requests, several at a time by continuous batching, in the order of the requests."""

import functools
import queue
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekiln import arguments
from edgekiln.api_arguments import ChatKeywords, batch_of, split_chat_keywords
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.generate.answer import FinishReason, Token
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.scheduler.request import Ticket
from edgekiln.runtimes.scheduler.scheduler import Scheduler
from edgekiln.runtimes.scheduler.sizing import sized_options, slot_bytes
from edgekiln.runtimes.text.tools.prompt import chat_ids

if TYPE_CHECKING:
    from edgekiln.api import Engine

PARALLEL = 8
# Answers that wait for an earlier one, times the requests that run together: a long answer does not stop the others.
_AHEAD = 16


@dataclass(frozen=True)
class BatchAnswer:
    """The answer to a request of a batch.

    Attributes:
        index: of the request, from 0.
        id: that the request has; None if it has none.
        text: the answer.
        finish_reason: why it ended, see `Token`; None where there is an error.
        prompt_tokens: tokens of the prompt.
        tokens: of the answer.
        error: why there is no answer, a sentence; None if there is one.
    """

    index: int
    id: str | int | None
    text: str = ""
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    tokens: tuple[Token, ...] = ()
    error: str | None = None


@dataclass
class _Pending:
    """A request that waits, runs, or has an answer that waits for earlier ones."""

    index: int
    id: str | int | None
    prompt_tokens: int = 0
    tokens: list[Token] = field(default_factory=list)
    ended: bool = False
    error: BaseException | None = None
    ticket: Ticket | None = None

    def answer(self) -> BatchAnswer:
        if self.error is not None:
            return BatchAnswer(self.index, self.id, prompt_tokens=self.prompt_tokens, error=str(self.error))
        text = "".join(token.text for token in self.tokens)
        reason = self.tokens[-1].finish_reason if self.tokens else None
        return BatchAnswer(self.index, self.id, text, reason, self.prompt_tokens, tuple(self.tokens))


def generate_batch(
    engine: "Engine", requests: Iterable[object], parallel: int | None, defaults: ChatKeywords
) -> Generator[BatchAnswer, None, None]:
    """See `Engine.generate_batch`. A request that is a RequestError becomes an answer with that error."""
    engine.check_options(**defaults)
    if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Iterable):
        raise RequestError(f"requests must be a list of prompts or of dictionaries, got {requests!r:.60}")
    plan = engine.manifest.tensorrt
    most = PARALLEL if plan is None else min(PARALLEL, plan.max_batch)
    slots = most if parallel is None else arguments.integer("parallel", parallel)
    if slots < 1:
        raise RequestError(f"parallel must be at least 1, got {slots}")
    return _answers(engine, iter(requests), slots, defaults)


def _answers(
    engine: "Engine", requests: Iterator[object], slots: int, defaults: ChatKeywords
) -> Generator[BatchAnswer, None, None]:
    options = sized_options(engine.manifest, SchedulerOptions(slots=slots, max_waiting=2 * slots))
    nbytes = functools.partial(slot_bytes, engine.manifest)
    scheduler = Scheduler(engine.runtime, engine.tokenizer, options, nbytes)
    batch = _Batch(engine, scheduler, defaults)
    try:
        while True:
            while batch.running < 2 * slots and len(batch.pending) < _AHEAD * slots and batch.take(requests):
                pass
            if not batch.pending:
                return
            if batch.pending[0].ended:
                yield batch.pending.popleft().answer()
            else:
                batch.wait()
    finally:
        for each in batch.pending:
            if each.ticket is not None:
                each.ticket.cancel()
        scheduler.close()


class _Batch:
    """The requests that were taken and whose answers were not given yet, in order."""

    def __init__(self, engine: "Engine", scheduler: Scheduler, defaults: ChatKeywords) -> None:
        self.pending: deque[_Pending] = deque()
        self.running = 0
        self._engine = engine
        self._scheduler = scheduler
        self._defaults = defaults
        self._default_options = engine._options(split_chat_keywords(defaults)[1])
        self._taken = 0
        self._ended: queue.SimpleQueue[_Pending] = queue.SimpleQueue()

    def take(self, requests: Iterator[object]) -> bool:
        """Take the next request; False if there is none."""
        try:
            request = next(requests)
        except StopIteration:
            return False
        pending = _Pending(self._taken, request_id(request))
        self._taken += 1
        self.pending.append(pending)
        try:
            prompt, options = self._prepared(request)
            pending.prompt_tokens = prompt.size
            pending.ticket = self._scheduler.submit(
                prompt, options, pending.tokens.append, functools.partial(self._end, pending)
            )
            self.running += 1
        except EdgekilnError as error:
            pending.error, pending.ended = error, True
        return True

    def wait(self) -> None:
        """Wait until another answer has ended.

        Raises:
            Exception: it ended by a defect.
        """
        pending = self._ended.get()
        self.running -= 1
        pending.ended = True
        if pending.error is not None and not isinstance(pending.error, EdgekilnError):
            raise pending.error

    def _end(self, pending: _Pending, error: BaseException | None) -> None:
        pending.error = error
        self._ended.put(pending)

    def _prepared(self, request: object) -> tuple[Ids, GenerateOptions]:
        """The prompt and the options of a request."""
        if isinstance(request, RequestError):
            raise request
        values: dict[str, Any] = dict(request) if isinstance(request, Mapping) else {"prompt": request}
        values.pop("id", None)
        given = [name for name in ("prompt", "messages") if name in values]
        if len(given) != 1:
            raise RequestError("a request has either a prompt or messages" + (", this one has both" if given else ""))
        text = values.pop(given[0])
        chat, others = split_chat_keywords(values)  # type: ignore[arg-type]  # checks the names
        options = self._default_options
        if others:
            options = self._engine._options({**split_chat_keywords(self._defaults)[1], **others})
        tokenizer, most = self._engine.tokenizer, self._engine.runtime.properties.max_length
        if given == ["messages"]:
            return chat_ids(
                tokenizer, text, max_tokens=most, **{**split_chat_keywords(self._defaults)[0], **chat}
            ), options
        if chat:
            raise RequestError(f"{next(iter(chat))} goes with messages, this request has a prompt")
        prompts = batch_of(text)
        if len(prompts) != 1:
            raise RequestError(f"a request has one prompt, this one has {len(prompts)}: give each its own")
        if not isinstance(prompts[0], str):
            return prompts[0], options
        if not prompts[0]:
            raise RequestError("prompt is empty: give some text")
        return tokenizer.encode(prompts[0], max_tokens=most), options


def request_id(request: object) -> Any:
    """The id of a request of a batch, or of an error in its place; None if it has none."""
    return request.get("id") if isinstance(request, Mapping) else getattr(request, "request_id", None)


def usage(answer: BatchAnswer) -> dict[str, int]:
    """The numbers of tokens of an answer, as OpenAI's API has them."""
    prompt, completion = answer.prompt_tokens, len(answer.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
