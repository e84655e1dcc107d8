"""A chat: messages, and a cache that spares reading them again at every turn."""

from collections.abc import Iterator

from edgekiln.runtimes.base import Runtime
from edgekiln.runtimes.generate.generate import GenerateOptions, Token, generate
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.text.tokenizer import Tokenizer


class Conversation:
    """Turns of user and assistant. `messages` may be read, edited or cleared between turns."""

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, system: str | None = None) -> None:
        self.messages: list[dict[str, str]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._cache = runtime.new_cache()

    def ask(
        self, text: str, options: GenerateOptions | None = None, stats: SpeculationStats | None = None
    ) -> Iterator[Token]:
        """Answer a message; `stats` counts the tokens that are drafted.

        The turn joins `messages` when the answer ends or the iterator is dropped, with as much of the answer as came;
        a turn that fails or is dropped before any text leaves no trace.

        Raises:
            RequestError: at once: the engine has no chat template, or the conversation is too long for it.
        """
        question = {"role": "user", "content": text}
        prompt = self._tokenizer.encode_chat([*self.messages, question])
        return self._answer(question, generate(self._runtime, self._tokenizer, [prompt], options, self._cache, stats))

    def _answer(self, question: dict[str, str], tokens: Iterator[Token]) -> Iterator[Token]:
        pieces: list[str] = []
        finished = False
        try:
            for token in tokens:
                pieces.append(token.text)
                finished = token.finish_reason is not None
                yield token
        finally:
            answer = "".join(pieces)
            if answer or finished:
                self.messages += [question, {"role": "assistant", "content": answer}]
