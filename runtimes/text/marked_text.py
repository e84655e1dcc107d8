"""Text that remembers which of its characters come from messages (taint tracking).

A chat template mixes its own text with that of messages. Control tokens are recognized only in the template's own text,
so what users write cannot end their turn and begin another one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

_OWN, _GIVEN = b"\0", b"\1"
_DIRECTIVE = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?[#0\- +]*(?P<star>\*)?\d*(?:\.(?P<star2>\*)?\d*)?[hlL]?(?P<type>.)", re.S
)
_ROLE = re.compile(r"[\w.-]+")


class MarkedText(str):
    """A string with a mark for each character.

    Methods of `str` that are not defined here return plain strings, which the environment of templates marks as given
    throughout.

    Attributes:
        marks: a byte for each character: 1 if it comes from a message, 0 if it is the template's own.
    """

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes | None = None) -> "MarkedText":
        """Mark a text; without marks, all of it as given."""
        self = super().__new__(cls, text)
        self.marks = marks if marks is not None else marks_of(text) if isinstance(text, cls) else _GIVEN * len(text)
        return self

    def __str__(self) -> str:
        return self

    def _part(self, start: int, stop: int) -> "MarkedText":
        return MarkedText(str.__getitem__(self, slice(start, stop)), self.marks[start:stop])

    def __getitem__(self, key: SupportsIndex | slice) -> "MarkedText":
        marks = self.marks[key] if isinstance(key, slice) else bytes([self.marks[key]])
        return MarkedText(str.__getitem__(self, key), marks)

    def __iter__(self) -> Iterator["MarkedText"]:
        return (self._part(i, i + 1) for i in range(len(self)))

    def __add__(self, other: str) -> "MarkedText":
        return MarkedText(str.__add__(self, other), self.marks + marks_of(other))

    def __radd__(self, other: str) -> "MarkedText":
        return MarkedText(str.__add__(other, self), marks_of(other) + self.marks)

    def __mul__(self, count: SupportsIndex) -> "MarkedText":
        return MarkedText(str.__mul__(self, count), self.marks * count)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> "MarkedText":
        whole = str.__mod__(self, values)  # raises what it raises
        pieces: list[str] = []
        at = taken = 0
        for match in _DIRECTIVE.finditer(self):
            if match["star"] or match["star2"]:
                return MarkedText(whole)
            pieces.append(self._part(at, match.start()))
            at = match.end()
            if match["type"] == "%":
                pieces.append(self._part(at - 1, at))
                continue
            value = values
            if match["key"] is None and isinstance(values, tuple):
                value, taken = (values[taken],), taken + 1
            text = match[0] % value
            item = value[0] if isinstance(value, tuple) else value[match["key"]] if match["key"] is not None else value
            plain = type(item) is str or isinstance(item, int | float)
            pieces.append(item if match[0] == "%s" and isinstance(item, str) else text if plain else MarkedText(text))
        pieces.append(self._part(at, len(self)))
        marks = b"".join(marks_of(piece) for piece in pieces)
        return MarkedText(whole, marks if len(marks) == len(whole) else None)

    def join(self, items: Iterable[str]) -> "MarkedText":
        """As `str.join`."""
        items = list(items)
        return MarkedText(str.join(self, items), self.marks.join(marks_of(item) for item in items))

    def strip(self, characters: str | None = None) -> "MarkedText":
        """As `str.strip`."""
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters: str | None = None) -> "MarkedText":
        """As `str.lstrip`."""
        return self._part(len(self) - len(str.lstrip(self, characters)), len(self))

    def rstrip(self, characters: str | None = None) -> "MarkedText":
        """As `str.rstrip`."""
        return self._part(0, len(str.rstrip(self, characters)))

    def removeprefix(self, prefix: str) -> "MarkedText":
        """As `str.removeprefix`."""
        return self._part(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str) -> "MarkedText":
        """As `str.removesuffix`."""
        return self._part(0, len(str.removesuffix(self, suffix)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> "MarkedText":
        """As `str.replace`."""
        whole = str.replace(self, old, new, count)
        if old:
            return MarkedText(whole, marks_of(new).join(piece.marks for piece in self.split(old, count)))
        # `new` goes before each character and after the last.
        limit = len(self) + 1 if int(count) < 0 else int(count)
        marks = [marks_of(new) * (i < limit) + self.marks[i : i + 1] for i in range(len(self) + 1)]
        return MarkedText(whole, b"".join(marks))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["MarkedText"]:  # type: ignore[override]
        """As `str.split`."""
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["MarkedText"]:  # type: ignore[override]
        """As `str.rsplit`."""
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list["MarkedText"]:  # type: ignore[override]
        """As `str.splitlines`."""
        parts, at = [], 0
        for line, whole in zip(str.splitlines(self), str.splitlines(self, True), strict=True):
            parts.append(self._part(at, at + len(whole if keepends else line)))
            at += len(whole)
        return parts

    def partition(self, separator: str) -> tuple["MarkedText", "MarkedText", "MarkedText"]:
        """As `str.partition`."""
        head, middle, _ = map(len, str.partition(self, separator))
        return self._part(0, head), self._part(head, head + middle), self._part(head + middle, len(self))

    def rpartition(self, separator: str) -> tuple["MarkedText", "MarkedText", "MarkedText"]:
        """As `str.rpartition`."""
        head, middle, _ = map(len, str.rpartition(self, separator))
        return self._part(0, head), self._part(head, head + middle), self._part(head + middle, len(self))

    def upper(self) -> "MarkedText":
        """As `str.upper`."""
        return self._mapped(str.upper(self))

    def lower(self) -> "MarkedText":
        """As `str.lower`."""
        return self._mapped(str.lower(self))

    def capitalize(self) -> "MarkedText":
        """As `str.capitalize`."""
        return self._mapped(str.capitalize(self))

    def title(self) -> "MarkedText":
        """As `str.title`."""
        return self._mapped(str.title(self))

    def _mapped(self, text: str) -> "MarkedText":
        """The text with other letters. Where they are more, all of it counts as given if any of it was."""
        if len(text) == len(self):
            return MarkedText(text, self.marks)
        return MarkedText(text) if any(self.marks) else own(text)

    def _located(self, pieces: Sequence[str], separator: str | None) -> list["MarkedText"]:
        """Consecutive pieces of this text; between them is the separator, or white space if that is None."""
        parts, at = [], 0
        for piece in pieces:
            start = at if separator is not None else str.find(self, piece, at)
            parts.append(self._part(start, start + len(piece)))
            at = start + len(piece) + len(separator or "")
        return parts


def marks_of(text: str) -> bytes:
    """The marks of a text; those of a plain string say that it is the template's own."""
    return text.marks if isinstance(text, MarkedText) else _OWN * len(text)


def own(text: str) -> MarkedText:
    """A text of the template's as `MarkedText`."""
    return text if isinstance(text, MarkedText) else MarkedText(text, _OWN * len(text))


def concat(pieces: Iterable[str]) -> str:
    """Join pieces; plain unless one of them is marked."""
    pieces = list(pieces)
    if not any(isinstance(piece, MarkedText) for piece in pieces):
        return "".join(pieces)
    return own("").join(pieces)


def given(value: Any) -> Any:
    """Mark every string in a JSON value, keys included."""
    if isinstance(value, str):
        return MarkedText(value)
    if isinstance(value, Mapping):
        return {given(key): given(item) for key, item in value.items()}
    return [given(item) for item in value] if isinstance(value, list | tuple) else value


def given_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Mark every string in a message but its role: templates write control tokens around, or as, a role's name."""
    role = message.get("role")
    marked = given(message)
    return {**marked, "role": role} if isinstance(role, str) and _ROLE.fullmatch(role) else marked
