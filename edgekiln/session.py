"""`Session`: a conversation with an engine, in Python."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from edgekiln import arguments
from edgekiln.api_arguments import ChatKeywords, Message, split_chat_keywords
from edgekiln.engine.output_file import check_output_file
from edgekiln.errors import RequestError
from edgekiln.messages_file import read_messages, write_messages
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.text.tools.prompt import chat_ids

if TYPE_CHECKING:
    from edgekiln.api import Engine


class Session:
    """A conversation with an engine over one KV cache: only the new tokens of each prompt are computed.

    Use it from one thread at a time.
    """

    def __init__(self, engine: "Engine", system: str | None = None, **options: Unpack[ChatKeywords]) -> None:
        """Begin a conversation; see `Engine.session`."""
        from edgekiln.runtimes.generate.conversation import Conversation

        engine.check_options(**options)
        self._engine = engine
        self._defaults = options
        self._conversation = Conversation(engine.runtime, engine.tokenizer, system)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages so far; they may be edited or deleted between turns."""
        return self._conversation.messages

    @property
    def system(self) -> str | None:
        """The system message, the first one; None if there is none. It may be set to a text or None."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        others = self.messages[0 if self.system is None else 1 :]
        messages = [*([] if text is None else [{"role": "system", "content": text}]), *others]
        self._check(messages)
        self.messages[:] = messages

    def clear(self) -> None:
        """Delete all messages but the system message."""
        del self.messages[0 if self.system is None else 1 :]

    def ask(
        self, text: str, stats: SpeculationStats | None = None, **options: Unpack[ChatKeywords]
    ) -> Generator[Token, None, None]:
        """Send a user message and stream the answer.

        Message and answer are appended to `messages` when the answer ends or the iterator is closed.

        Args:
            text: the message.
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `ChatKeywords`; by default those of the session.

        Raises:
            RequestError: the engine has no chat template, the conversation is too long for the engine, or an earlier
                answer has begun and not ended.
            EdgekilnError: while iterating, if the runtime fails.
        """
        chat, others = split_chat_keywords({**self._defaults, **options})
        return self._conversation.ask(text, self._engine._options(others), stats, chat)

    def regenerate(
        self, stats: SpeculationStats | None = None, **options: Unpack[ChatKeywords]
    ) -> Generator[Token, None, None]:
        """Stream another answer to the last user message.

        It takes the place of what followed that message when it ends or the iterator is closed. With a temperature of
        0, or the same seed, it is the same answer.

        Args:
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `ChatKeywords`; by default those of the session.

        Raises:
            RequestError: there is no user message, or as in `ask`.
            EdgekilnError: while iterating, if the runtime fails.
        """
        chat, others = split_chat_keywords({**self._defaults, **options})
        return self._conversation.regenerate(self._engine._options(others), stats, chat)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file: its messages, and what the KV cache holds of them.

        Args:
            path: of the file; one that exists is replaced.

        Raises:
            RequestError: the file cannot be written, or an answer has begun and not ended.
        """
        self._conversation.save(check_output_file(arguments.path("path", path), [self._engine.path]))

    def restore(self, path: str | Path) -> None:
        """Go on with a conversation that `save` wrote, in place of this one.

        Args:
            path: of the file.

        Raises:
            RequestError: the file cannot be read, is damaged, or is of another engine, or of other kernels, as on
                another kind of processor; or an answer has begun and not ended.
        """
        self._conversation.restore(arguments.path("path", path))

    def save_messages(self, path: str | Path) -> None:
        """Write the messages alone, as JSON that any engine and OpenAI's API take: {"messages": [...]}.

        Args:
            path: of the file; another saved chat is replaced.

        Raises:
            RequestError: the file cannot be written, or exists and is no saved chat.
        """
        write_messages(arguments.path("path", path), self.messages, [self._engine.path])

    def load_messages(self, path: str | Path) -> None:
        """Go on with messages that `save_messages` or another program wrote, in place of those of this session.

        Args:
            path: of a JSON file: a list of messages as in OpenAI's API, or an object with a list `messages`.

        Raises:
            RequestError: the file cannot be read, or the chat template of the engine refuses the messages.
        """
        messages = read_messages(arguments.path("path", path))
        self._check(messages)
        self.messages[:] = messages

    def _check(self, messages: list[dict[str, Any]]) -> None:
        """Raise RequestError where the chat template refuses the messages with a further question."""
        if self._conversation.answering:
            raise RequestError("the session is generating an answer: read it to its end or close its iterator first")
        chat, _ = split_chat_keywords(self._defaults)
        alternating = messages and messages[-1].get("role") == "user"
        question: list[Message] = [] if alternating else [{"role": "user", "content": "?"}]
        chat_ids(self._engine.tokenizer, [*messages, *question], **chat)
