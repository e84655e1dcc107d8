"""Answers exceptions of routes, all of them."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekiln.serve.errors import ApiError, api_error
from edgekiln.serve.generation import ClientGoneError
from edgekiln.serve.json_response import error_response
from edgekiln.serve.state import Server, request_log


class Failures:
    """Middleware that turns exceptions into responses, unless one has begun or the client is gone."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        """Pass requests to `app`."""
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def note_start(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except (ClientGoneError, ClientDisconnect):
            request_log(scope)["finish"] = "client_gone"
        except Exception as error:
            failure = _http_error(error, scope) if isinstance(error, HTTPException) else api_error(error)
            request_log(scope)["error"] = failure.code
            if failure.code == "internal_error":
                self._server.log_exception(error, scope)
            if not begun:
                await error_response(failure)(scope, receive, send)


def _http_error(error: HTTPException, scope: Scope) -> ApiError:
    """What the router raises."""
    path = scope["path"]
    if error.status_code == 404:
        return ApiError(404, f"there is no route {path:.100}", code="not_found")
    allowed = (error.headers or {}).get("Allow", "")
    message = f"{path:.100} does not take {scope['method']}: use {allowed}"
    return ApiError(405, message, code="method_not_allowed", headers=error.headers)
