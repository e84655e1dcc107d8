"""The text of an answer: special tokens as they are wanted, cut before the first stop string."""

from collections import deque

from edgekiln.runtimes.generate.stop import StopMatcher
from edgekiln.runtimes.text.decode_steps import REPLACEMENT
from edgekiln.runtimes.text.stream import SpecialTokensChoice
from edgekiln.runtimes.text.tokenizer import Tokenizer


class AnswerText:
    """Turns the tokens of an answer into its text.

    Stop strings are looked for in the text with all special tokens, whichever of them are shown. Only a stop string
    with U+FFFD, which stands for bytes that are no text, is looked for in the text that is shown.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...], special_tokens: SpecialTokensChoice, eos: frozenset[int]
    ) -> None:
        """The answer ends before the first string of `stop`, or with an id of `eos`, which only "show" shows."""
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(special_tokens, frozenset() if special_tokens == "show" else eos)
        self._stop = StopMatcher(stop) if stop else None
        self._held: deque[int] = deque()
        replaced = tuple(text for text in stop if REPLACEMENT in text)
        self._shown = _ShownText(replaced) if replaced else None

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
            return self._shown.push(text) if self._shown else (text, False)
        text += self._stream.end_within(self._held[0], cut)
        return (self._shown.end(text)[0] if self._shown else text), True

    def flush(self) -> tuple[str, bool]:
        """The rest of the text, at the end of an answer, and whether a stop string is complete."""
        text = "".join(map(self._stream.push, self._held)) + self._stream.flush()
        return self._shown.end(text) if self._shown else (text, False)


class _ShownText:
    """Looks for stop strings in pieces of text."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = StopMatcher(stop)
        self._held: deque[bytes] = deque()

    def push(self, text: str) -> tuple[str, bool]:
        """Add a piece; returns the text that can be shown, and whether a stop string is complete."""
        self._held.append(text.encode())
        count, cut = self._stop.push(self._held[-1])
        shown = b"".join(self._held.popleft() for _ in range(count))
        if cut is not None:
            shown += self._held.popleft()[:cut]
        return shown.decode(), cut is not None

    def end(self, text: str) -> tuple[str, bool]:
        """Add the last piece."""
        shown, stopped = self.push(text)
        return shown if stopped else shown + b"".join(self._held).decode(), stopped
