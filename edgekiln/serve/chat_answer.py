"""An answer of a chat, as it grows: text, reasoning and tool calls."""

from typing import Any

from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.serve.answer_parser import AnswerParser
from edgekiln.serve.answering import finish_reason
from edgekiln.serve.logprobs import chat_logprob
from edgekiln.serve.tools.deltas import ContentDelta, Delta, ReasoningDelta


class ChatAnswer:
    """One choice of a chat completion.

    Attributes:
        index: of the choice.
        finish_reason: why the answer ended, in OpenAI's words; None while it runs.
        content: text so far, without reasoning and tool calls.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, parser: AnswerParser, logprobs: bool) -> None:
        """Begin an answer, whose text `parser` divides."""
        self.index = index
        self.finish_reason: str | None = None
        self.logprobs = logprobs
        self._tokenizer = tokenizer
        self._parser = parser
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning so far."""
        return self._parser.reasoning_tokens

    @property
    def content(self) -> str:
        """The text so far, without reasoning and tool calls."""
        return "".join(self._content)

    def add(self, token: Token) -> list[Delta]:
        """Add a token; returns what it adds to the answer."""
        added = self._parser.push(token.text)
        if token.finish_reason is not None:
            added += self._parser.finish()
        for delta in added:
            self._keep(delta)
        if token.finish_reason is not None:
            called = self._calls and token.finish_reason != "length"
            self.finish_reason = "tool_calls" if called else finish_reason(token.finish_reason)
        return added

    def _keep(self, delta: Delta) -> None:
        if isinstance(delta, ContentDelta):
            self._content.append(delta.text)
        elif isinstance(delta, ReasoningDelta):
            self._reasoning.append(delta.text)
        else:
            if delta.index == len(self._calls):
                function = {"name": delta.name, "arguments": ""}
                self._calls.append({"id": delta.id, "type": "function", "function": function})
            self._calls[delta.index]["function"]["arguments"] += delta.arguments

    def logprob(self, token: Token) -> dict[str, Any] | None:
        """The entry of a token in `logprobs`; None where none are asked for, or the token ends the answer."""
        if not self.logprobs or token.finish_reason == "eos":
            return None
        return chat_logprob(self._tokenizer, token)

    def note_logprob(self, token: Token) -> None:
        """Keep the entry of a token for `choice`."""
        if (entry := self.logprob(token)) is not None:
            self._logprobs.append(entry)

    def choice(self) -> dict[str, Any]:
        """The choice of a response that is not streamed."""
        content = self.content
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if self._calls else "")}
        message["refusal"] = None
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
        return {
            "index": self.index,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if self.logprobs else None,
            "finish_reason": self.finish_reason,
        }
