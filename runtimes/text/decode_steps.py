"""The steps of a streaming decoder: one for each component of the decoder of tokenizer.json.

Where a component of `tokenizers` sees one token at a time, its own object is called. What depends on other tokens is
done here: runs of byte tokens, and components after the tokens have been joined.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tokenizers import decoders

REPLACEMENT = "\ufffd"
Component = dict[str, Any]

# `tokenizers` accepts a plus sign as the first digit.
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f+][0-9A-Fa-f])>")
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_UNPRINTABLE = (byte for byte in range(256) if byte not in _PRINTABLE)
# The characters of byte-level BPE (GPT-2): printable bytes stand for themselves, the others are counted from U+0100.
_BYTES = {**{chr(byte): byte for byte in _PRINTABLE}, **{chr(256 + i): byte for i, byte in enumerate(_UNPRINTABLE)}}
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")


class Step(Protocol):
    """A component of a decoder. Until the tokens are joined, an item is a token; then it is a piece of the one text."""

    def push(self, item: str) -> Iterable[str]:
        """Add an item; returns those that are final."""
        ...

    def flush(self) -> Iterable[str]:
        """The remaining items, at the end."""
        ...


def of_library(component: Component) -> decoders.Decoder:
    """The decoder of `tokenizers` that consists of one component."""
    decoder = decoders.Sequence([])
    decoder.__setstate__(json.dumps(component).encode())
    return decoder


def byte_of(token: str) -> int | None:
    """The byte of a token like <0x0A>; None if it is another token."""
    match = _BYTE_TOKEN.fullmatch(token)
    return int(match[1], 16) if match else None


def byte_level(token: str) -> bytes:
    """The bytes that the characters of a byte-level BPE token stand for; its UTF-8 if one of them stands for none."""
    try:
        return bytes([_BYTES[character] for character in token])
    except KeyError:
        return token.encode()


def _decoded(utf8: codecs.IncrementalDecoder, data: bytes) -> str:
    text = utf8.decode(data)
    # The codec waits for the last byte of a surrogate, though it is invalid whatever that is.
    return text + utf8.decode(b"", final=True) if _SURROGATE.fullmatch(utf8.getstate()[0]) else text


class _Each:
    """A component that changes each token alone."""

    def __init__(self, component: Component) -> None:
        self._decode = of_library(component).decode

    def push(self, item: str) -> Iterable[str]:
        return (self._decode([item]),)

    def flush(self) -> Iterable[str]:
        return ()


class _FirstDiffers(_Each):
    """A component that changes the first token in another way than the others."""

    _first = True

    def push(self, item: str) -> Iterable[str]:
        tokens = [item] if self._first else ["", item]
        self._first = False
        return (self._decode(tokens),)


class _LastDiffers(_Each):
    """A component that changes the last token in another way than the others: one token is held back."""

    _held: str | None = None

    def push(self, item: str) -> Iterable[str]:
        held, self._held = self._held, item
        return () if held is None else (self._decode([held, ""]),)

    def flush(self) -> Iterable[str]:
        return () if self._held is None else (self._decode([self._held]),)


class _Ctc(_Each):
    """Drops a token that equals the one before it, and tokens that become empty."""

    _last: str | None = None

    def push(self, item: str) -> Iterable[str]:
        repeated, self._last = item == self._last, item
        text = "" if repeated else self._decode([item])
        return (text,) if text else ()


class _ByteFallback:
    """Decodes each run of byte tokens as UTF-8. If a run is not valid as a whole, each of its bytes becomes U+FFFD.

    So the text of a run is held back until the run ends or has an invalid byte.
    """

    def __init__(self, _component: Component) -> None:
        self._text: list[str] = []  # of the run
        self._size = 0  # bytes of the run; 0 between runs
        self._valid = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def push(self, item: str) -> Iterable[str]:
        byte = byte_of(item)
        if byte is None:
            return (*self.flush(), item)
        self._size += 1
        if not self._valid:
            return (REPLACEMENT,)
        try:
            self._text.append(_decoded(self._utf8, bytes([byte])))
        except UnicodeDecodeError:
            self._valid = False
            return (REPLACEMENT,) * self._size
        return ()

    def flush(self) -> Iterable[str]:
        if not self._size:
            return ()
        rest: tuple[str, ...] = ()
        if self._valid:
            unfinished = self._utf8.getstate()[0]
            rest = (REPLACEMENT,) * self._size if unfinished else ("".join(self._text),)
        self._utf8.reset()
        self._text, self._size, self._valid = [], 0, True
        return rest


class _ByteLevel:
    """Maps characters to the bytes of byte-level BPE and joins them; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, _component: Component) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, item: str) -> Iterable[str]:
        return (_decoded(self._utf8, byte_level(item)),)

    def flush(self) -> Iterable[str]:
        return (self._utf8.decode(b"", final=True),)


class _Fuse:
    """Joins the tokens."""

    def __init__(self, _component: Component) -> None:
        pass

    def push(self, item: str) -> Iterable[str]:
        return (item,)

    def flush(self) -> Iterable[str]:
        return ()


class SpaceBetween:
    """Puts a space between tokens."""

    _first = True

    def push(self, item: str) -> Iterable[str]:
        first, self._first = self._first, False
        return (item if first else f" {item}",)

    def flush(self) -> Iterable[str]:
        return ()


class Whole:
    """A component that needs all of its input. Its text comes at the end."""

    def __init__(self, library: decoders.Decoder, join: bool = False) -> None:
        """With `join`, the items are pieces of one token."""
        self._decode = library.decode
        self._join = join
        self._items: list[str] = []

    def push(self, item: str) -> Iterable[str]:
        self._items.append(item)
        return ()

    def flush(self) -> Iterable[str]:
        return (self._decode(["".join(self._items)] if self._join else self._items),)


def whole_text(component: Component) -> Step:
    """A step for a component that needs the whole text."""
    return Whole(of_library(component), join=True)


class _StripText:
    """Removes a character up to `start` times at the start of the text and up to `stop` times at its end."""

    def __init__(self, component: Component) -> None:
        self._character: str = component["content"]
        self._start: int = component["start"]
        self._stop: int = component["stop"]
        self._held = 0  # characters at the end

    def push(self, item: str) -> Iterable[str]:
        while self._start and item.startswith(self._character):
            item = item[1:]
            self._start -= 1
        if item:
            self._start = 0
        item = self._character * self._held + item
        self._held = min(self._stop, len(item) - len(item.rstrip(self._character)))
        return (item[: len(item) - self._held],)

    def flush(self) -> Iterable[str]:
        return ()


class _ReplaceText:
    """Replaces a string in the text. An end that may be the start of the string is held back."""

    def __init__(self, component: Component) -> None:
        self._pattern: str = component["pattern"]["String"]
        self._content: str = component["content"]
        self._held = ""

    def push(self, item: str) -> Iterable[str]:
        *done, rest = (self._held + item).split(self._pattern)
        longest = min(len(self._pattern) - 1, len(rest))
        held = next(size for size in range(longest, -1, -1) if rest.endswith(self._pattern[:size]))
        self._held = rest[len(rest) - held :]
        return (self._content.join([*done, rest[: len(rest) - held]]),)

    def flush(self) -> Iterable[str]:
        return (self._held,)


def _replace_text(component: Component) -> Step:
    plain = component["pattern"].get("String")
    return _ReplaceText(component) if plain else whole_text(component)


JOINS = ("Fuse", "ByteLevel")
# Components by their type: before the tokens are joined, and after it. Those that are not in the second table need the
# whole text.
TOKEN_STEPS: dict[str, Callable[[Component], Step]] = {
    "BPEDecoder": _LastDiffers,
    "ByteFallback": _ByteFallback,
    "ByteLevel": _ByteLevel,
    "CTC": _Ctc,
    "Fuse": _Fuse,
    "Metaspace": _FirstDiffers,
    "Replace": _Each,
    "Strip": _Each,
    "WordPiece": _FirstDiffers,
}
TEXT_STEPS: dict[str, Callable[[Component], Step]] = {
    "Fuse": _Fuse,
    "Replace": _replace_text,
    "Strip": _StripText,
}
