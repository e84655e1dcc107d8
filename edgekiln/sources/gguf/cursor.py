"""Bounds-checked reads of a GGUF header, little-endian."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekiln.errors import SourceError

_STRING, _ARRAY = 8, 9
# Vocabularies and merges have fewer than a million entries.
_MAX_ARRAY = 2**22
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Field:
    """One metadata entry.

    Attributes:
        type: the `gguf.GGUFValueType`.
        value: as a Python object.
        element: value type of the elements of an array; None for other types.
    """

    type: int
    value: Any
    element: int | None = None


class Cursor:
    """A position in a header.

    Args:
        data: the file.
        path: the file, for error messages.

    Raises:
        SourceError: each read raises it if the file ends too early, or holds what is no GGUF.
    """

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.position = 0
        self.path = path

    def _advance(self, size: int) -> int:
        start = self.position
        if size > len(self.data) - start:
            raise SourceError(
                f"{self.path} is truncated: its header needs {size} bytes at {start}, the file ends at "
                f"{len(self.data)}; download it again"
            )
        self.position = start + size
        return start

    def scalars(self, code: str, count: int = 1) -> tuple[Any, ...]:
        start = self._advance(struct.calcsize(f"<{code}") * count)
        return struct.unpack_from(f"<{count}{code}", self.data, start)

    def string(self) -> str:
        (length,) = self.scalars("Q")
        start = self._advance(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise SourceError(
                f"{self.path} is damaged: the string at byte {start} is not UTF-8; download it again"
            ) from None

    def name(self, longest: int) -> str:
        """The name of a key or a tensor."""
        name = self.string()
        if not name or not name.isprintable() or len(name) > longest:
            raise SourceError(
                f"{self.path} is damaged: {name!r:.60} before byte {self.position} is no name; download it again"
            )
        return name

    def field(self) -> Field:
        (kind,) = self.scalars("I")
        if kind == _STRING:
            return Field(kind, self.string())
        if kind == _ARRAY:
            element, count = self.scalars("I")[0], self.scalars("Q")[0]
            return Field(kind, self._array(element, count), element)
        return Field(kind, self.scalars(self._code(kind))[0])

    def _array(self, element: int, count: int) -> list[Any]:
        size = 8 if element == _STRING else struct.calcsize(f"<{self._code(element)}")
        if count > _MAX_ARRAY and count * size <= len(self.data) - self.position:
            raise SourceError(
                f"{self.path} is damaged: an array at byte {self.position} has {count} values, at most {_MAX_ARRAY} "
                "are read; download it again"
            )
        if element == _STRING:
            # Each string has a length field of 8 bytes, so that an impossible count fails here, before the loop.
            if count * 8 > len(self.data) - self.position:
                self._advance(count * 8)
            return [self.string() for _ in range(count)]
        return list(self.scalars(self._code(element), count))

    def _code(self, kind: int) -> str:
        if kind == _ARRAY:
            raise SourceError(
                f"{self.path} is damaged: an array of arrays before byte {self.position}; download it again"
            )
        if kind not in _SCALARS:
            raise SourceError(
                f"{self.path} is damaged: unknown metadata type {kind} before byte {self.position}; download it again"
            )
        return _SCALARS[kind]
