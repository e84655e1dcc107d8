"""Function calls in the syntax of Python, as JSON."""

import ast
import json
import warnings
from typing import Any

# What JSON calls the constants; models mix both.
_CONSTANTS = {"true": True, "false": False, "null": None}
_MOST_DEPTH = 100


def call_of(text: str) -> tuple[str, str]:
    """The function's name and the JSON text of the arguments of a call, such as `f(a=1, b="x")`.

    Values are JSON or literals of Python.

    Raises:
        ValueError: the text is no such call; arguments without a name are not.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of escape sequences that Python does not have
            expression = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no call of a function: {error}") from error
    if not isinstance(expression, ast.Call) or expression.args:
        raise ValueError("it is no call of a function by the names of its arguments")
    values: dict[str, Any] = {}
    for argument in expression.keywords:
        if argument.arg is None or argument.arg in values:
            raise ValueError("an argument has no name, or that of another")
        values[argument.arg] = _value(argument.value, text.strip())
    return _name(expression.func), json.dumps(values, ensure_ascii=False, allow_nan=False)


def _name(expression: ast.expr) -> str:
    if isinstance(expression, ast.Attribute):
        return f"{_name(expression.value)}.{expression.attr}"
    if isinstance(expression, ast.Name):
        return expression.id
    raise ValueError("the function has no name")


def _value(expression: ast.expr, text: str) -> Any:
    segment = ast.get_source_segment(text, expression)
    try:
        return json.loads(segment or "")  # whose escape sequences are not those of Python
    except (ValueError, RecursionError):
        return _literal(expression)


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
