"""Divides the text of an answer: reasoning, then tool calls and content."""

from edgekiln.serve.tools.deltas import ContentDelta, Delta
from edgekiln.serve.tools.parser import ToolParser
from edgekiln.serve.tools.reasoning import ReasoningSplitter


class AnswerParser:
    """Of one answer."""

    def __init__(self, reasoning: ReasoningSplitter | None, tools: ToolParser | None) -> None:
        """Without `reasoning` and `tools` all text is content."""
        self._reasoning = reasoning
        self._tools = tools

    def push(self, text: str) -> list[Delta]:
        """Add text of the answer; returns what it adds to the message."""
        if self._reasoning is None:
            return [ContentDelta(text)] if self._tools is None else self._tools.push(text)
        return self._with_calls(self._reasoning.push(text))

    def finish(self) -> list[Delta]:
        """The rest, at the end of the answer."""
        rest = [] if self._reasoning is None else self._with_calls(self._reasoning.finish())
        return rest if self._tools is None else rest + self._tools.finish()

    def _with_calls(self, deltas: list[Delta]) -> list[Delta]:
        if self._tools is None:
            return deltas
        result: list[Delta] = []
        for delta in deltas:
            result += self._tools.push(delta.text) if isinstance(delta, ContentDelta) else [delta]
        return result
