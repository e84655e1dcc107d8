"""Streaming detokenization: the text of token ids that arrive one at a time."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekiln.runtimes.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
# With byte fallback, a character is at most four tokens of one byte each: after its first, at most three are missing.
MAX_MISSING_TOKENS = 3


class StreamingDecoder:
    """Turns token ids into text without splitting a character.

    The texts that `push` and `flush` return, concatenated, are `Tokenizer.decode` of all ids. Decoding each token alone
    would lose the spaces that SentencePiece puts before words. So the window keeps the tokens of the last text that was
    returned as context: they are decoded again together with the new ones, and their text is cut off. The cost per
    token is constant.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # context, then tokens whose text was not returned yet
        self._context = 0  # tokens of the context
        self._context_text = ""

    def push(self, token: int) -> str:
        """Add a token; returns the text that it completes, empty while a character lacks bytes."""
        if not self._tokenizer.has_text(token):
            return ""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        unfinished = len(text) - len(text.rstrip(REPLACEMENT))
        if not unfinished:
            return self._emit(len(self._window), text)
        if min(unfinished, len(self._window) - self._context) > 2 * MAX_MISSING_TOKENS:
            # These bytes are not valid UTF-8 and never become a character: return them as U+FFFD, so that the window
            # does not grow. Only the last tokens may still be the beginning of a character.
            stable = len(self._window) - MAX_MISSING_TOKENS
            return self._emit(stable, self._tokenizer.decode(self._window[:stable]))
        return ""

    def flush(self) -> str:
        """The remaining text, at the end of the sequence; an unfinished character becomes U+FFFD."""
        return self._emit(len(self._window), self._tokenizer.decode(self._window))

    def _emit(self, count: int, text: str) -> str:
        """The new part of `text`, which is the text of the window's first `count` tokens."""
        new = text[len(self._context_text) :]
        if not new:
            return ""
        self._window = self._window[self._context :]
        self._context = count - self._context
        self._context_text = self._tokenizer.decode(self._window[: self._context])
        return new
