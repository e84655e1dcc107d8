"""Requests as lines of JSONL: what `Engine.generate_batch` takes, or why a line is none."""

import codecs
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from edgekiln.batch_openai import OpenAIRequest, is_openai_line, openai_request
from edgekiln.errors import RequestError

_ALIASES = {"max_completion_tokens": "max_tokens"}  # of OpenAI's API


class LineError(RequestError):
    """A line that is no request.

    Attributes:
        request_id: that the line has; None if it has none.
        openai: the line is one of OpenAI's batch API.
    """

    def __init__(self, number: int, reason: str, request_id: str | int | None = None, openai: bool = False) -> None:
        super().__init__(f"line {number}{':' if openai else ''} {reason}")
        self.request_id = request_id
        self.openai = openai


@dataclass(frozen=True)
class RequestFile:
    """A file of requests, or stdin, which is read to its end first.

    Attributes:
        name: for messages.
        path: of the file; None for stdin.
        data: what stdin had.
    """

    name: str
    path: Path | None
    data: bytes = b""

    @classmethod
    def open(cls, path: Path) -> "RequestFile":
        """The requests of a file.

        Raises:
            RequestError: it cannot be read.
        """
        try:
            with path.open("rb"):
                return cls(str(path), path)
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from error

    @classmethod
    def stdin(cls) -> "RequestFile":
        """The requests that stdin has."""
        return cls("stdin", None, sys.stdin.buffer.read())

    def count(self) -> int:
        """The number of requests: lines that are not blank."""
        return sum(1 for _ in self._lines())

    def requests(self, chat: bool = False, system: str | None = None) -> Iterator[dict[str, Any] | LineError]:
        """The requests, in order.

        Args:
            chat: prompts are messages of a user.
            system: system message of messages that have none.
        """
        for number, line in self._lines():
            try:
                request = _request(number, line)
            except LineError as error:
                yield error
                continue
            own = not isinstance(request, OpenAIRequest)  # the other says by its url what it is
            if chat and own and isinstance(request.get("prompt"), str) and "messages" not in request:
                request["messages"] = [{"role": "user", "content": request.pop("prompt")}]
            if system is not None and isinstance(messages := request.get("messages"), list):
                has = any(isinstance(message, dict) and message.get("role") == "system" for message in messages)
                request["messages"] = messages if has else [{"role": "system", "content": system}, *messages]
            yield request

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of the lines that are not blank."""
        with self.path.open("rb") if self.path is not None else io.BytesIO(self.data) as file:
            stream: BinaryIO = file
            for number, line in enumerate(stream, 1):
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if text.strip():
                    yield number, text


def _request(number: int, line: bytes) -> dict[str, Any]:
    """A line as a dictionary for `Engine.generate_batch`; null counts as left out.

    Raises:
        LineError: it is not one.
    """
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise LineError(number, f"is not UTF-8 text (byte {error.start}): convert it first") from error
    except json.JSONDecodeError as error:
        raise LineError(number, f"is not JSON ({error.msg} at character {error.pos + 1}): correct it") from error
    except (ValueError, RecursionError) as error:
        raise LineError(number, f"is not JSON ({error!s:.80}): correct it") from error
    if not isinstance(value, dict):
        raise LineError(number, f"is not an object with a prompt or messages, got {value!r:.60}")
    if is_openai_line(value):
        return _openai_request(number, value)
    request_id = value.get("id")
    if request_id is not None and (not isinstance(request_id, str | int) or isinstance(request_id, bool)):
        raise LineError(number, f"has an id that is neither a string nor an integer, got {request_id!r:.60}")
    request: dict[str, Any] = {}
    for name, part in value.items():
        ours = str(_ALIASES.get(name, name))
        if ours in request:
            both = " and ".join(each for each in value if _ALIASES.get(each, each) == ours)
            raise LineError(number, f"has {both}: give one of them", request_id)
        if part is not None:
            request[ours] = part
    if not _convert_biases(request):
        raise LineError(number, "has a logit_bias whose keys are not token ids", request_id)
    return request


def _openai_request(number: int, value: dict[str, Any]) -> OpenAIRequest:
    custom_id = value["custom_id"]
    if not isinstance(custom_id, str):
        raise LineError(number, f"has a custom_id that is no text, got {custom_id!r:.60}")
    try:
        request = openai_request(value)
    except RequestError as error:
        raise LineError(number, str(error), custom_id, openai=True) from error
    if not _convert_biases(request):
        raise LineError(number, "the keys of logit_bias are not token ids", custom_id, openai=True)
    return request


def _convert_biases(request: dict[str, Any]) -> bool:
    """Make integers of the token ids in `logit_bias`; False where they are none."""
    biases = request.get("logit_bias")
    if isinstance(biases, dict):
        if not all(token.isascii() and token.isdigit() for token in biases):
            return False
        request["logit_bias"] = {int(token[:20]): bias for token, bias in biases.items()}
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
