"""Streaming detokenization: the text of token ids that arrive one at a time."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgekiln.runtimes.text.tokenizer import Tokenizer

# Special tokens in a text: all but the turn marks, which are bos, eos and pad; all; none.
SpecialTokensChoice = Literal["auto", "show", "hide"]


class StreamingDecoder:
    """Turns token ids into text without splitting a character.

    The texts that `push` and `flush` return, concatenated, are what `decode` of `tokenizers` gives for all ids that are
    not hidden, for every decoder. The work for a token does not grow with the text. Text is held back while a later
    token may change it:

    - A character waits for all of its bytes.
    - With byte fallback, a run of byte tokens waits for its end, since an invalid byte turns all bytes of the run into
      U+FFFD. At an invalid byte the wait ends.
    - BPEDecoder changes the last token, which waits for the next one. Characters that Strip would remove at the end
      wait, and so does the start of a string that Replace looks for in the whole text.
    - The whole text waits for a regular expression that is applied to it, and for components that are applied to it
      though they were made for tokens.
    """

    def __init__(
        self, tokenizer: "Tokenizer", special_tokens: SpecialTokensChoice, hidden: frozenset[int] = frozenset()
    ) -> None:
        """Decode ids of `tokenizer`; see `Tokenizer.stream`."""
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._hidden = hidden
        self._decoder = tokenizer.decoder.stream()

    def push(self, token: int) -> str:
        """Add a token; returns the text that it completes, often none."""
        text = self._shown(token)
        return "" if text is None else self._decoder.push(text)

    def flush(self) -> str:
        """The remaining text, at the end of the sequence; an unfinished character becomes U+FFFD."""
        return self._decoder.flush()

    def end_within(self, token: int, size: int) -> str:
        """The remaining text if the sequence ends after the first `size` bytes of `token`, as in `token_bytes`."""
        if not size or self._shown(token) is None:
            return self.flush()
        text = self.push(token) + self.flush()
        rest = self._tokenizer.token_bytes(token)[size:].decode(errors="replace")
        # At the end of a text, components may have removed the last characters of `rest`.
        while not text.endswith(rest):
            rest = rest[:-1]
        return text.removesuffix(rest)

    def _shown(self, token: int) -> str | None:
        if token in self._hidden or (self._special_tokens == "hide" and self._tokenizer.is_special(token)):
            return None
        return self._tokenizer.token(token)
