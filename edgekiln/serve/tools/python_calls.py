"""Function calls in the syntax of Python, as JSON."""

import ast
import json
import re
import warnings
from typing import Any

# What JSON calls the constants; models mix both.
_CONSTANTS = {"true": True, "false": False, "null": None}
# A name of a function or an argument.
NAME = re.compile(r"[\w.:-]+")
_MOST_DEPTH = 100


def call_of(text: str) -> tuple[str, str]:
    """The function's name and the JSON text of the arguments of a call, such as `f(a=1, b="x")`.

    Values are JSON or literals of Python. Names may be words of Python, and have dots and hyphens.

    Raises:
        ValueError: the text is no such call; arguments without a name are not.
    """
    name, opened, rest = text.strip().partition("(")
    if not NAME.fullmatch(name) or not opened or not rest.endswith(")"):
        raise ValueError("it is no call of a function")
    values: dict[str, Any] = {}
    for part in _parts(rest[:-1]):
        key, separator, value = part.partition("=")
        if not separator or not NAME.fullmatch(key.strip()) or key.strip() in values:
            raise ValueError("an argument has no name, or that of another")
        values[key.strip()] = _value(value.strip())
    return name, json.dumps(values, ensure_ascii=False, allow_nan=False)


def _parts(text: str) -> list[str]:
    """The text between commas that are not in strings or brackets."""
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if character == "," and not quote and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts if parts[-1].strip() else parts[:-1]


def _value(text: str) -> Any:
    try:
        return json.loads(text)  # whose escape sequences are not those of Python
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # of escape sequences that Python does not have
            return _literal(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"an argument is no literal: {error}") from error


def _literal(expression: ast.expr, depth: int = 0) -> Any:
    if depth > _MOST_DEPTH:
        raise ValueError("there are too many containers inside each other")
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str | int | float | None):
        return expression.value
    if isinstance(expression, ast.Name) and expression.id in _CONSTANTS:
        return _CONSTANTS[expression.id]
    if isinstance(expression, ast.List | ast.Tuple):
        return [_literal(item, depth + 1) for item in expression.elts]
    if isinstance(expression, ast.Dict):
        keys = [None if key is None else _literal(key, depth + 1) for key in expression.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key is no string")
        return dict(zip(keys, (_literal(value, depth + 1) for value in expression.values), strict=True))
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
        value = _literal(expression.operand, depth + 1)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    raise ValueError("an argument is no literal")
