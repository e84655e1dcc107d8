"""Divides the text of an answer: reasoning, then tool calls and content."""

from edgekiln.serve.tools.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta
from edgekiln.serve.tools.parser import ToolParser
from edgekiln.serve.tools.reasoning import ReasoningSplitter


class AnswerParser:
    """Of one answer.

    Attributes:
        reasoning_tokens: tokens of reasoning so far.
    """

    def __init__(self, reasoning: ReasoningSplitter | None, tools: ToolParser | None, parallel: bool = True) -> None:
        """Without `reasoning` and `tools` all text is content; without `parallel` only the first call is kept."""
        self._reasoning = reasoning
        self._tools = tools
        self._parallel = parallel
        self.reasoning_tokens = 0
        self._pushes = 0

    def push(self, text: str) -> list[Delta]:
        """Add the text of a token, which may be empty; returns what it adds to the message."""
        return self._kept(self._push(text))

    def finish(self) -> list[Delta]:
        """The rest, at the end of the answer."""
        return self._kept(self._finish())

    def _kept(self, deltas: list[Delta]) -> list[Delta]:
        if self._parallel:
            return deltas
        return [delta for delta in deltas if not isinstance(delta, ToolCallDelta) or delta.index == 0]

    def _push(self, text: str) -> list[Delta]:
        self._pushes += 1
        if not text:
            return []
        if self._reasoning is None:
            return [ContentDelta(text)] if self._tools is None else self._tools.push(text)
        deltas = self._reasoning.push(text)
        if any(isinstance(delta, ReasoningDelta) for delta in deltas):
            self.reasoning_tokens = self._pushes
        return self._with_calls(deltas)

    def _finish(self) -> list[Delta]:
        rest: list[Delta] = [] if self._reasoning is None else self._with_calls(self._reasoning.finish())
        return rest if self._tools is None else rest + self._tools.finish()

    def _with_calls(self, deltas: list[Delta]) -> list[Delta]:
        if self._tools is None:
            return deltas
        result: list[Delta] = []
        for delta in deltas:
            result += self._tools.push(delta.text) if isinstance(delta, ContentDelta) else [delta]
        return result
