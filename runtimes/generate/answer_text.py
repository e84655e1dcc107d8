"""The text of an answer: special tokens as they are wanted, cut before the first stop string."""

from collections import deque

from edgekiln.runtimes.generate.stop import StopMatcher
from edgekiln.runtimes.text.stream import SpecialTokensChoice
from edgekiln.runtimes.text.tokenizer import Tokenizer


class AnswerText:
    """Turns the tokens of an answer into its text.

    Stop strings are looked for in the text with all special tokens, whichever of them are shown.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...], special_tokens: SpecialTokensChoice, eos: frozenset[int]
    ) -> None:
        """The answer ends before the first string of `stop`, or with an id of `eos`, which only "show" shows."""
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(special_tokens, frozenset() if special_tokens == "show" else eos)
        self._stop = StopMatcher(stop) if stop else None
        self._held: deque[int] = deque()

    def push(self, token: int) -> tuple[str, bool]:
        """Add a token.

        Returns:
            The text that can be shown, and whether a stop string is complete. Then the answer has ended.
        """
        if self._stop is None:
            return self._stream.push(token), False
        self._held.append(token)
        count, cut = self._stop.push(self._tokenizer.token_bytes(token))
        text = "".join(self._stream.push(self._held.popleft()) for _ in range(count))
        if cut is None:
            return text, False
        return text + self._stream.end_within(self._held[0], cut), True

    def flush(self) -> str:
        """The rest of the text, at the end of an answer without a stop string."""
        return "".join(map(self._stream.push, self._held)) + self._stream.flush()
