"""Errors as the OpenAI API states them: {"error": {"message", "type", "param", "code"}} with an HTTP status."""

import json
import math
from collections.abc import Mapping

from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.runtimes.scheduler.options import QueueFullError, ShuttingDownError

# The official clients repeat a request after 408, 409, 429 and 5xx, unless this header says otherwise.
NO_RETRY = {"x-should-retry": "false"}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
_CODES = {429: "rate_limit_exceeded", 503: "server_shutting_down", 504: "timeout", 500: "internal_error"}


class ApiError(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        message: one sentence.
        param: the field of the request that is wrong, as in `messages[0].content`.
        code: for programs, such as `model_not_found`.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code if code is not None else _CODES.get(status)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def json(self) -> bytes:
        """`body` as JSON. ASCII, as the message may quote lone surrogates of the request."""
        return json.dumps(self.body()).encode()


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400."""
    return ApiError(400, message, param, code)


def unsupported(name: str, why: str) -> ApiError:
    """Status 400 for a field of OpenAI's API that edgekiln does not have."""
    return ApiError(400, f"{name} is not supported: {why}", name, "unsupported_parameter")


def shutting_down() -> ApiError:
    """Status 503."""
    return ApiError(503, "the server is shutting down: try again later", headers={"Retry-After": "5"})


def timed_out(seconds: float) -> ApiError:
    """Status 504."""
    message = f"the answer took longer than the server's limit of {seconds:g} s: ask for fewer tokens"
    return ApiError(504, message, headers=NO_RETRY)


def api_error(error: BaseException, param: str | None = None) -> ApiError:
    """The response to an exception; status 500 if it is not expected.

    Args:
        error: what was raised.
        param: the field of the request that a RequestError is about.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), headers={"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})
    if isinstance(error, ShuttingDownError):
        return shutting_down()
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param, "invalid_value")
    if isinstance(error, EdgekilnError):
        return ApiError(500, str(error), code="engine_error")
    return ApiError(500, "the server failed; its log tells more")
