"""Arguments: convert a value to the type that its option has, or say in a sentence that it is another.

Ranges are checked where the options are used.
"""

import difflib
import operator
import os
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from edgekiln.errors import RequestError


def integer(name: str, value: object) -> int:
    """`value` as an int; integers of numpy are taken, bool and float are not.

    Raises:
        RequestError: it is not an integer.
    """
    _check_digits(name, value)
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]  # raises TypeError
        except TypeError:
            pass
    raise RequestError(f"{name} must be an integer, got {value!r:.60}")


def number(name: str, value: object) -> float:
    """`value` as a float; numbers of numpy are taken, bool is not.

    Raises:
        RequestError: it is not a real number.
    """
    _check_digits(name, value)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise RequestError(f"{name} must be a number, got {value!r:.60}")
    try:
        return float(value)
    except OverflowError as error:  # an integer of more than 300 digits
        raise RequestError(f"{name} must be a number below 1e308, got {value!r:.60}") from error


def _check_digits(name: str, value: object) -> None:
    """Refuse integers of more digits than Python converts to text, which messages do."""
    if isinstance(value, int) and abs(value) >= 10**1000:
        raise RequestError(f"{name} must be between -1e1000 and 1e1000, got an integer of more digits")


def flag(name: str, value: object) -> bool:
    """`value`, if it is True or False: a text such as "no" would count as true.

    Raises:
        RequestError: it is another value.
    """
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be True or False, got {value!r:.60}")
    return value


def utf8(text: str) -> str:
    """`text`, if it can be encoded; lone surrogates stand for bytes of a command line that are not UTF-8.

    Raises:
        RequestError: it cannot; the message has the number of bytes before the first that is wrong.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = len(text[: error.start].encode())
        raise RequestError(f"the text is not UTF-8 (byte {before}): convert it first") from error
    return text


def engine_path(path: Any) -> Any:
    """`path`, if it is not empty text.

    Raises:
        RequestError: it is.
    """
    if path in ("", b""):
        raise RequestError("the path of the engine is empty: give its directory")
    return path


def path(name: str, value: object) -> Path:
    """`value` as a Path.

    Raises:
        RequestError: it is neither a string nor a path, or has a zero byte.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in os.fsdecode(value):
        raise RequestError(f"{name} must be a path, as a string or a pathlib.Path, got {value!r:.60}")
    return Path(os.fsdecode(value))


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name of `known` that was most likely meant by `name`; None where none is like it."""
    found = difflib.get_close_matches(name, list(known), 1)
    return found[0] if found else None
