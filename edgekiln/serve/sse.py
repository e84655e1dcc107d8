"""Streamed responses: server-sent events, and what ends an answer before its time."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from edgekiln.serve.errors import ApiError, api_error, timed_out
from edgekiln.serve.generation import ClientGoneError, Generation
from edgekiln.serve.state import Server, request_log

DONE = b"data: [DONE]\n\n"
# JSON of one value, on one line.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def event(value: object, name: str | None = None) -> bytes:
    """A server-sent event with a JSON value, and the name of its type where the API has such."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {to_json(value)}\n\n".encode()


@contextlib.asynccontextmanager
async def limited(receive: Receive, generation: Generation, timeout_s: float) -> AsyncIterator[None]:
    """Abort the answers when the client goes away, or after `timeout_s`, while the block runs."""
    timer = asyncio.get_running_loop().call_later(timeout_s, generation.abort, timed_out(timeout_s))
    watch = asyncio.create_task(_abort_at_disconnect(receive, generation))
    try:
        yield
    finally:
        timer.cancel()
        watch.cancel()


async def _abort_at_disconnect(receive: Receive, generation: Generation) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    generation.abort(ClientGoneError())


class EventStream(Response):
    """Sends the events of answers as they arrive. An error after the first event is an event, too."""

    media_type = "text/event-stream"

    def __init__(
        self,
        server: Server,
        stack: AsyncExitStack,
        generation: Generation,
        events: AsyncIterator[bytes],
        named: bool = False,
    ) -> None:
        """Send `events`, which read `generation`, and close `stack` at the end; `named`: events have types."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._server = server
        self._stack = stack
        self._generation = generation
        self._events = events
        self._named = named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        generation = self._generation
        async with self._stack, limited(receive, generation, self._server.options.timeout_s):
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for data in self._events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except (ClientGoneError, OSError):
                request_log(scope)["finish"] = "client_gone"
                return
            except Exception as error:
                failure = api_error(error)
                if failure.code == "internal_error":
                    self._server.log_exception(error, scope)
                request_log(scope)["finish"] = failure.code
                await send({"type": "http.response.body", "body": self._failure(failure), "more_body": True})
            finally:
                self._server.note_usage(scope, generation)
            await send({"type": "http.response.body", "body": b""})

    def _failure(self, error: ApiError) -> bytes:
        if not self._named:
            return event(error.body())
        fields = error.body()["error"]
        return event({**fields, "type": "error"}, "error")
