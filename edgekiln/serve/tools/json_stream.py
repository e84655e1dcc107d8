"""Checks JSON text character by character, as it arrives."""

import re
from typing import Literal

Expected = Literal["value", "value or end", "key", "key or end", "colon", "comma or end", "nothing"]

_LITERAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|true|false|null")
_SPACE = " \t\r\n"
_HEX = frozenset("0123456789abcdefABCDEF")
_MOST_DEPTH = 200  # containers inside each other; json.loads cannot read many more


class JsonStream:
    """One JSON value.

    Attributes:
        depth: containers that are open.
        expected: what may come next, after a string or literal that has begun.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.expected: Expected = "value"
        self._containers: list[str] = []
        self._literal = ""  # a number, true, false or null that has begun
        self._string = False
        self._escape = ""  # an escape sequence that has begun

    @property
    def ended(self) -> bool:
        """Whether the value is complete. A number at the top level is never known to be."""
        return self.expected == "nothing"

    @property
    def between(self) -> bool:
        """Whether no string or literal has begun."""
        return not self._string and not self._literal

    def push(self, character: str) -> None:
        """Add a character.

        Raises:
            ValueError: the text is no JSON.
        """
        if self._string:
            self._in_string(character)
            return
        if self._literal:
            if character not in _SPACE + ",]}":
                self._literal += character
                return
            if not _LITERAL.fullmatch(self._literal):
                raise ValueError(f"{self._literal!r:.40} is no JSON")
            self._literal = ""
            self._after_value()
        if character not in _SPACE:
            self._between(character)

    def _in_string(self, character: str) -> None:
        if self._escape:
            self._escape += character
            if self._escape[1] == "u":
                if len(self._escape) > 2 and character not in _HEX:
                    raise ValueError("an escape sequence is wrong")
                if len(self._escape) == 6:
                    self._escape = ""
            elif character in '"\\/bfnrt':
                self._escape = ""
            else:
                raise ValueError("an escape sequence is wrong")
        elif character == "\\":
            self._escape = character
        elif character == '"':
            self._string = False
            if self.expected in ("key", "key or end"):
                self.expected = "colon"
            else:
                self._after_value()
        elif character < " ":
            raise ValueError("a string has a control character")

    def _between(self, character: str) -> None:
        value, key = self.expected in ("value", "value or end"), self.expected in ("key", "key or end")
        if character == '"' and (value or key):
            self._string = True
        elif character in "{[" and value:
            self._containers.append("}" if character == "{" else "]")
            self.depth += 1
            if self.depth > _MOST_DEPTH:
                raise ValueError(f"there are more than {_MOST_DEPTH} containers inside each other")
            self.expected = "key or end" if character == "{" else "value or end"
        elif character in "}]" and self.expected.endswith("or end") and self._containers[-1] == character:
            self._containers.pop()
            self.depth -= 1
            self._after_value()
        elif character == "," and self.expected == "comma or end":
            self.expected = "key" if self._containers[-1] == "}" else "value"
        elif character == ":" and self.expected == "colon":
            self.expected = "value"
        elif character in "-0123456789tfn" and value:
            self._literal = character
        else:
            raise ValueError(f"{character!r} is not expected")

    def _after_value(self) -> None:
        self.expected = "comma or end" if self._containers else "nothing"
