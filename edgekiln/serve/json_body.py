"""Bodies of requests: read with a limit, parsed as strict JSON, and checked against a schema."""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import ClientDisconnect, Request

from edgekiln.serve.errors import ApiError, bad_request
from edgekiln.serve.options import ServeOptions

_Schema = TypeVar("_Schema", bound=BaseModel)


async def read_json(request: Request, options: ServeOptions) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        ApiError: 400 the body is no JSON object; 408 it does not arrive in time; 413 it is too long; 415 it is of
            another type.
        ClientDisconnect: the client is gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Browsers send other types, or none, to other origins without asking; this keeps foreign pages out.
        message = f"the header Content-Type must be application/json, got {kind!r:.60}"
        raise ApiError(415, message, code="unsupported_media_type")
    try:
        async with asyncio.timeout(options.header_timeout_s):
            body = await _read(request, options.max_body)
    except TimeoutError as error:
        message = f"the body did not arrive within {options.header_timeout_s:g} s"
        raise ApiError(408, message, headers={"Connection": "close"}) from error
    try:
        value = from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error!s:.200}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise bad_request(f"the body must be a JSON object, got {type(value).__name__}", code="invalid_json")
    return value


async def _read(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
        raise _too_large(most)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> ApiError:
    message = f"the body has more than the {most} bytes that this server takes"
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def parse(schema: type[_Schema], body: dict[str, Any]) -> _Schema:
    """A body as an object of `schema`; fields that are null count as left out.

    Raises:
        ApiError: a field is unknown, missing, of another type or out of range; `param` is its name.
    """
    try:
        return schema.model_validate({name: value for name, value in body.items() if value is not None}, strict=True)
    except ValidationError as error:
        raise _field_error(error.errors(include_url=False, include_context=True)[0]) from error


def _field_error(detail: ErrorDetails) -> ApiError:
    param = field_name(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return bad_request(f"there is no field {param:.80}: remove it", param, "unknown_parameter")
    if detail["type"] == "missing":
        return bad_request(f"{param} is missing", param, "missing_required_parameter")
    if isinstance(cause := detail.get("ctx", {}).get("error"), ApiError):
        return cause
    message = detail["msg"]
    return bad_request(
        f"{param}: {message[:1].lower()}{message[1:]}, got {detail['input']!r:.60}", param, "invalid_value"
    )


def field_name(path: tuple[int | str, ...]) -> str:
    """The path of a field as text: ("messages", 0, "content") is messages[0].content."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


__all__ = ["ClientDisconnect", "parse", "read_json"]
