"""Tool calls in the text of an answer, as it is streamed."""

import secrets
import string
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekiln.runtimes.text.tools.styles import Style
from edgekiln.serve.tools.deltas import ContentDelta, Delta, ToolCallDelta
from edgekiln.serve.tools.readers import Step, reader_of

_SPACE = " \t\r\n"
_LETTERS = string.ascii_letters + string.digits
# Texts that begin like calls and are none. Beyond so many, calls in what such a text contains are not looked for.
_MOST_FAILED = 20


class ToolParser:
    """Splits one answer into content and tool calls.

    A text that begins like a call and is none comes back as content. Arguments in JSON are streamed as soon as the name
    of the function is known; where they turn out not to be JSON, the rest of them comes back as content. Calls in other
    forms are not streamed: each is one part. White space between calls is dropped.

    Attributes:
        calls: number of calls so far.
    """

    def __init__(self, style: Style, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self.calls = 0
        self._style = style
        self._schemas = {
            function["name"]: function.get("parameters") or {}
            for function in (tool.get("function", tool) for tool in tools)
            if "name" in function
        }
        self._out: list[Delta] = []
        self._queue: deque[str] = deque()  # characters to be read
        self._held = ""  # content that may be the beginning of calls, and white space before it
        self._begun = False  # the answer has content
        self._reader: Step | None = None
        self._opened = ""  # what the reader's calls began with
        self._raw: list[str] = []  # what the reader took and is in no call yet
        self._failed = 0

    def push(self, text: str) -> list[Delta]:
        """Add text of the answer; returns what it adds to the message."""
        self._queue.extend(text)
        self._run()
        return self._take()

    def finish(self) -> list[Delta]:
        """The rest, at the end of the answer."""
        if self._reader is not None:
            raw = "".join(self._raw)
            self._reader.close()
            self._reader = None
            if self._opened:
                self._emit(self._held + raw)
            elif not self._style.close.startswith(raw.strip(_SPACE)):
                self._emit(raw)
        elif self._held.strip(_SPACE) or not self.calls:
            self._emit(self._held)
        self._held, self._raw = "", []
        return self._take()

    def begin(self, name: str) -> None:
        """Begin a call; for readers."""
        length = self._style.id_length
        prefix = "call_" if length > len("call_") * 2 else ""
        id_ = prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))
        self._out.append(ToolCallDelta(self.calls, id_, name))
        self.calls += 1
        self._held = ""  # white space before calls

    def arguments(self, text: str) -> None:
        """Append to the arguments of the last call; for readers."""
        last = self._out[-1] if self._out else None
        if isinstance(last, ToolCallDelta):
            self._out[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + text)
        else:
            self._out.append(ToolCallDelta(self.calls - 1, arguments=text))

    def commit(self) -> None:
        """All that the reader took is in calls; for readers."""
        self._raw, self._opened = [], ""

    def _run(self) -> None:
        while self._queue:
            character = self._queue.popleft()
            if self._reader is None:
                self._in_content(character)
            else:
                self._raw.append(character)
                self._advance(character)

    def _advance(self, character: str) -> None:
        assert self._reader is not None
        try:
            self._reader.send(character)
        except (StopIteration, ValueError, RecursionError):  # the last for containers inside each other
            self._reader = None
            self._leave()

    def _leave(self) -> None:
        """Go on with content, which begins with what the reader took and could not read."""
        raw, size = "".join(self._raw), 0
        if self._opened:
            self._failed += 1
            # Calls may begin in the rest.
            size = len(self._opened) if self._failed <= _MOST_FAILED else len(raw)
            self._emit(self._held + raw[:size])
            self._held = ""
        self._raw, self._opened = [], ""
        self._queue.extendleft(reversed(raw[size:]))

    def _in_content(self, character: str) -> None:
        self._held += character
        if self._style.bare and not self._begun and character == "{" and not self._held[:-1].strip(_SPACE):
            self._enter("{", reader_of(self._style, "", self, self._schemas))
            self._advance("{")
            return
        for opened in self._style.opens:
            if self._held.endswith(opened):
                self._enter(opened, reader_of(self._style, opened, self, self._schemas))
                return
        kept = max((_overlap(self._held, opened) for opened in self._style.opens), default=0)
        shown = self._held[: len(self._held) - kept].rstrip(_SPACE)
        if shown:
            self._emit(shown)
            self._held = self._held[len(shown) :]

    def _enter(self, opened: str, reader: Step) -> None:
        before = self._held[: len(self._held) - len(opened)]
        content = before.rstrip(_SPACE)
        self._emit(content)
        self._held = before[len(content) :]
        self._opened, self._raw = opened, [opened]
        self._reader = reader
        next(reader)

    def _emit(self, text: str) -> None:
        if not text:
            return
        self._begun = self._begun or bool(text.strip(_SPACE))
        last = self._out[-1] if self._out else None
        if isinstance(last, ContentDelta):
            self._out[-1] = ContentDelta(last.text + text)
        else:
            self._out.append(ContentDelta(text))

    def _take(self) -> list[Delta]:
        out, self._out = self._out, []
        return out


def _overlap(text: str, opened: str) -> int:
    """Length of the longest end of `text` that `opened` begins with."""
    return next((size for size in range(min(len(text), len(opened)), 0, -1) if text.endswith(opened[:size])), 0)


def text_of(deltas: Iterable[Delta]) -> str:
    """The content in `deltas`."""
    return "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
