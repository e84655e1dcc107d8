"""A chat: a list of messages, and a KV cache that keeps earlier turns from being computed again.

The C++ counterpart is `Session::ask` in edgekiln.hpp. In the C API the caller keeps the messages.
"""

import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Runtime
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.saved_sequence import SavedSequence, read_sequence, write_sequence
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.prompt import chat_ids

_IN_USE = (
    "the session is generating another answer: read it to its end or close its iterator first, and give each thread a "
    "session of its own"
)


class Conversation:
    """Alternating messages of user and assistant.

    Attributes:
        messages: dictionaries with `role` and `content`. May be read, edited or cleared between turns.
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, system: str | None = None) -> None:
        """Start with no messages but the system message, if given."""
        self.messages: list[dict[str, Any]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._cache = runtime.new_cache()
        self._answering = threading.Lock()  # held from the first token of an answer until its iterator ends

    def ask(
        self,
        text: str,
        options: GenerateOptions | None = None,
        stats: SpeculationStats | None = None,
        chat: Mapping[str, Any] | None = None,
    ) -> Generator[Token, None, None]:
        """Generate the answer to a message.

        The message and its answer are added to `messages` when the answer ends or the iterator is closed, with the
        text generated so far. A turn that fails, or is closed before any text, leaves `messages` unchanged.

        Args:
            text: the user's message.
            options: by default greedy, 256 tokens.
            stats: updated with the counts of speculative decoding.
            chat: keyword arguments of `chat_ids`, such as `tools`.

        Raises:
            RequestError: immediately: the engine has no chat template, the conversation is too long for it, or an
                earlier answer has begun and not ended.
        """
        return self._begin({"role": "user", "content": text}, len(self.messages), options, stats, chat)

    def regenerate(
        self,
        options: GenerateOptions | None = None,
        stats: SpeculationStats | None = None,
        chat: Mapping[str, Any] | None = None,
    ) -> Generator[Token, None, None]:
        """Generate another answer to the last message of the user, in place of what followed it.

        Args and errors are those of `ask`; a turn that fails, or is closed before any text, leaves `messages`
        unchanged.

        Raises:
            RequestError: immediately: there is no message of the user, or as for `ask`.
        """
        kept = max((i for i, message in enumerate(self.messages) if message.get("role") == "user"), default=None)
        if kept is None:
            raise RequestError("there is no answer to generate again: ask something first")
        return self._begin(self.messages[kept], kept, options, stats, chat)

    @property
    def answering(self) -> bool:
        """Whether an answer has begun and not ended."""
        return self._answering.locked()

    def _begin(
        self,
        question: dict[str, Any],
        kept: int,
        options: GenerateOptions | None,
        stats: SpeculationStats | None,
        chat: Mapping[str, Any] | None,
    ) -> Generator[Token, None, None]:
        if self.answering:
            raise RequestError(_IN_USE)
        prompt = chat_ids(
            self._tokenizer,
            [*self.messages[:kept], question],
            max_tokens=self._runtime.properties.max_length,
            **(chat or {}),
        )
        tokens = generate(self._runtime, self._tokenizer, [prompt], options, self._cache, stats)
        return self._answer(question, kept, tokens)

    def save(self, path: Path) -> None:
        """Write the messages, and what the KV cache holds of them, to a file.

        Where the cache cannot be saved, the file has the messages only.

        Raises:
            RequestError: the file cannot be written, or an answer has begun and not ended.
        """
        if self.answering:
            raise RequestError(_IN_USE)
        nothing = SavedSequence(np.zeros(0, np.int64), 0, [])
        saved = self._cache.save(0) if self._cache.can_save else nothing
        write_sequence(path, self._runtime.sequence_key, saved, {"messages": self.messages})

    def restore(self, path: Path) -> None:
        """Go on with the conversation that `save` wrote, with the same engine, in place of this one.

        Raises:
            RequestError: the file cannot be read, is damaged, or of another engine or other kernels; or an answer has
                begun and not ended.
        """
        if self.answering:
            raise RequestError(_IN_USE)
        saved, notes = read_sequence(path, self._runtime.sequence_key)
        if self._cache.can_save:
            self._cache.load(0, saved)
        self.messages[:] = notes.get("messages", [])

    def _answer(
        self, question: dict[str, Any], kept: int, tokens: Generator[Token, None, None]
    ) -> Generator[Token, None, None]:
        """Pass the tokens on; then the question and their text follow the first `kept` messages."""
        if not self._answering.acquire(blocking=False):
            raise RequestError(_IN_USE)
        texts: list[str] = []
        finished = False
        try:
            for token in tokens:
                texts.append(token.text)
                finished = token.finish_reason is not None
                yield token
        finally:
            tokens.close()
            answer = "".join(texts)
            if answer or finished:
                self.messages[kept:] = [question, {"role": "assistant", "content": answer}]
            self._answering.release()
