"""Parsing JSON that is not trusted."""

import json
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 100  # arrays and objects inside each other; no file of a model or an engine has more than ten
_MAX_DOUBLE = int(float.fromhex("0x1.fffffffffffffp+1023"))


def parse_json(data: bytes, finite: bool = True) -> Any:
    """Parse UTF-8 JSON, as RFC 8259 describes it. Of equal keys in an object, the last one counts.

    Args:
        data: the bytes of the file.
        finite: refuse NaN, Infinity and numbers beyond the range of float64; else they are floats, as Python's `json`
            and transformers read them.

    Raises:
        ValueError: it is not JSON, is nested deeper than `MAX_DEPTH`, or has a string with a lone surrogate; the
            message says which.
    """

    def constant(name: str) -> float:
        if finite:
            raise ValueError(f"{name} is not a number of JSON")
        return float(name)

    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it begins with a byte order mark")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    for leaf in _leaves(value):
        if isinstance(leaf, str) and not leaf.isascii():
            try:
                leaf.encode()
            except UnicodeEncodeError as error:
                raise ValueError("a string has half of a surrogate pair") from error
        elif finite and isinstance(leaf, int | float) and not -_MAX_DOUBLE <= leaf <= _MAX_DOUBLE:
            raise ValueError("a number is too large")
    return value


def _leaves(document: Any) -> Iterator[Any]:
    """Every key and every value that is neither array nor object."""
    level = [document]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                yield from value
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
            else:
                yield value
        if not deeper:
            return
        level = deeper
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    yield from level
