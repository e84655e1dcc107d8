"""A limit on the characters of numbers in JSON: small models go on with digits until the answer is cut."""

from typing import TYPE_CHECKING

import numpy as np

from edgekiln.runtimes.sampling.constraint import Bitmask

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Without the sign. Enough for all 64-bit integers and floats, such as 2.2250738585072014e-308.
MOST_CHARACTERS = 24
_DIGITS, _NUMBER = b"0123456789", b"0123456789.eE+-"
_QUOTE, _BACKSLASH, _LINE_BREAK = b'"\\\n'


class NumberLimit:
    """The limit for a vocabulary, which any number of answers share."""

    def __init__(self, vocabulary: "LLTokenizer", words: int) -> None:
        """Begin with a vocabulary, for masks of `words` words."""
        self._vocabulary = vocabulary
        self._words = words
        self._rest: Bitmask | None = None

    def text(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._vocabulary.decode_bytes([token])

    @property
    def rest(self) -> Bitmask:
        """The tokens that go on with no number."""
        if self._rest is None:
            ends = np.zeros(self._words * 32, dtype=np.bool_)
            for token in range(min(self._vocabulary.vocab_size, ends.size)):
                text = self.text(token)
                ends[token] = not text or text[0] not in _NUMBER
            self._rest = np.packbits(ends, bitorder="little").view(np.uint32)
        return self._rest


class NumberLength:
    """The length of the number at the end of an answer in JSON, or of text in which there is JSON."""

    def __init__(self, limit: NumberLimit) -> None:
        self._limit = limit
        self._length = 0
        self._string = False
        self._escape = False

    def accept(self, token: int) -> None:
        """Append a token."""
        for character in self._limit.text(token):
            if self._string:
                # In JSON a string has no line break: around JSON, a single quote begins none.
                self._string = character != _LINE_BREAK and (self._escape or character != _QUOTE)
                self._escape = character == _BACKSLASH and not self._escape
            elif character in _DIGITS or (self._length and character in _NUMBER):
                self._length += 1
            else:
                self._length, self._string, self._escape = 0, character == _QUOTE, False

    def limit(self, mask: Bitmask) -> None:
        """Take the tokens out of a mask that go on with a number that is too long; where it cannot end, none."""
        if self._length >= MOST_CHARACTERS:
            rest = mask & self._limit.rest
            if rest.any():
                mask[:] = rest
