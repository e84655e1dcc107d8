"""The outermost layer: every request has an id, headers of its response, a line in the log, and counts."""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekiln.serve.answering import new_id
from edgekiln.serve.state import Server, request_log

_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
# Status of a request whose client went away before the response, as nginx has it; only in the log and the metrics.
_CLIENT_GONE = 499
_QUIET = frozenset({"/health", "/metrics"})  # logged as errors only


class Access:
    """Middleware around all others."""

    def __init__(self, app: ASGIApp, server: Server, routes: frozenset[str]) -> None:
        """Pass requests to `app`; `routes` are the paths that metrics tell apart."""
        self._app = app
        self._server = server
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        start = time.perf_counter()
        scope["app"] = self._server
        identity = new_id("req_")
        fields = request_log(scope)
        fields["id"] = identity
        headers = [(b"x-request-id", identity.encode()), *_HEADERS]
        status = _CLIENT_GONE

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        self._server.metrics.open_requests.inc()
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._server.metrics.open_requests.dec()
            self._end(scope, status, time.perf_counter() - start, fields)

    def _end(self, scope: Scope, status: int, seconds: float, fields: dict[str, Any]) -> None:
        path = scope["path"]
        self._server.metrics.request(path if path in self._routes else "other", status, seconds)
        if path in _QUIET and status < 400:
            return
        line = {"method": scope["method"], "path": path[:200], "status": status, "seconds": round(seconds, 4)}
        self._server.log.write("request", level="error" if status >= 500 else "info", **fields, **line)
