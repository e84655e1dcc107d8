"""What the routes of a server share."""

import asyncio
import traceback
from contextlib import AsyncExitStack
from typing import Any, cast

from starlette.requests import Request
from starlette.types import Scope

from edgekiln.serve.engines import EnginePool, LoadedEngine
from edgekiln.serve.errors import shutting_down
from edgekiln.serve.generation import Generation
from edgekiln.serve.log import Log
from edgekiln.serve.mailbox import Mailbox
from edgekiln.serve.metrics import Metrics
from edgekiln.serve.options import ServeOptions


class Server:
    """The state of a server.

    Attributes:
        engines: that requests may name.
        options: what the operator chose.
        log: the log.
        metrics: the metrics.
        draining: no request is taken any more.
    """

    def __init__(self, engines: EnginePool, options: ServeOptions, log: Log) -> None:
        """Nothing runs yet."""
        self.engines = engines
        self.options = options
        self.log = log
        self.metrics = Metrics(engines.stats)
        self.draining = False
        self._mailbox: Mailbox | None = None
        self._running: set[Generation] = set()

    async def begin(self, stack: AsyncExitStack, engine: LoadedEngine) -> Generation:
        """A generation for a request; `stack` ends it."""
        if self.draining:
            raise shutting_down()
        if self._mailbox is None:
            self._mailbox = Mailbox(asyncio.get_running_loop())
        generation = Generation(self._mailbox, self.metrics, engine.name)
        self._running.add(generation)
        stack.callback(self._running.discard, generation)
        return await stack.enter_async_context(generation)

    @property
    def running(self) -> int:
        """Requests whose answers are computed or wait."""
        return len(self._running)

    def abort_all(self) -> None:
        """End all answers with status 503."""
        for generation in list(self._running):
            generation.abort(shutting_down())

    def note_usage(self, scope: Scope, generation: Generation) -> None:
        """Put what a request took into its log line."""
        request_log(scope).update(
            prompt_tokens=generation.prompt_tokens,
            cached_tokens=generation.cached_tokens,
            completion_tokens=generation.completion_tokens,
            first_token_s=None if generation.first_token_s is None else round(generation.first_token_s, 4),
        )

    def log_exception(self, error: BaseException, scope: Scope) -> None:
        """Log an exception that nothing expects. Its message is left out, as it may quote a prompt."""
        where = "".join(traceback.format_tb(error.__traceback__))
        text = str(error) if self.log.prompts else None
        self.log.write(
            "error",
            level="error",
            id=request_log(scope).get("id"),
            exception=type(error).__name__,
            message=text,
            traceback=where,
        )


def server_of(request: Request) -> Server:
    """The server that a request is for."""
    return cast(Server, request.app)


def request_log(scope: Scope) -> dict[str, Any]:
    """The fields of a request's line in the log, which routes add to."""
    state: dict[str, Any] = scope.setdefault("state", {})
    fields: dict[str, Any] = state.setdefault("log", {})
    return fields
