"""Filters, tests and methods of chat templates: what they may make is checked and counted, and marks are kept.

A filter or method whose result is a plain string though an argument is marked gives text that is marked throughout.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import pass_context
from jinja2.filters import do_indent
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedFormatter

from edgekiln.runtimes.text.marked_text import MarkedText, concat, own
from edgekiln.runtimes.text.template_budget import VIEWS, Budget, check_width, current

# These write HTML, which no prompt needs, or take time that depends on more than the length of their text.
NO_FILTERS = ("urlize", "xmlattr", "striptags", "pprint")
NO_METHODS = ("translate", "maketrans", "encode", "to_bytes")
MOST_BITS = 16_384  # of an integer
# Filters that return an item of their input, whose marks it keeps.
_RETURN_ITEMS = {"attr", "d", "default", "first", "last", "max", "min", "random", "sum"}
# Filters that neither compare items nor convert them to text.
_SHALLOW = {
    *("attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "random", "reject"),
    *("rejectattr", "reverse", "select", "selectattr", "slice"),
}
# Tests that compare values or read all of a text.
_DEEP_TESTS = {
    *("==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge"),
    *("in", "lower", "upper"),
}
# Filters that take the items of a list, or the characters of a text, at once.
_TAKE_ITEMS = {
    *("dictsort", "groupby", "join", "list", "max", "min"),
    *("sort", "title", "unique", "urlencode", "wordcount", "wordwrap"),
}
_STEPS_OF_PIECE = 4  # of a text
_STEPS_OF_COMPARED = 10  # an item that is sorted or grouped
_WHITE_SPACE = (" ", "\n", "\t", "\r")
_MAY_CONTAIN_MARKS = (MarkedText, list, tuple, dict, set, Iterator, *VIEWS)
_STEPS = 2  # of a filter, besides what it reads and writes
_WIDTH_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs"}
_WIDTH_FILTERS = {"batch", "center", "indent", "round", "slice", "tojson"}
_REPEAT_TEXT = {"indent", "wordwrap"}
_ROUND = 400  # times the precision of `round`, which computes a power of ten
_NUMBER = re.compile(r"\d+")
_DIRECTIVE = re.compile(r"%[^a-zA-Z%]*")
_KEY = re.compile(r"%\(([^)]*)\)")
# Around a field of str.format; Unicode has no such characters.
_FIELD_BEGIN, _FIELD_END = "\ufdd0", "\ufdd1"
_FIELD_ENDS = re.compile(f"[{_FIELD_BEGIN}{_FIELD_END}]")


def has_marks(values: Iterable[Any]) -> bool:
    """Whether a value is marked, or may contain marked text."""
    return current.marks and any(isinstance(value, _MAY_CONTAIN_MARKS) for value in values)


@pass_context  # which also keeps the compiler from converting constants
def to_text(_context: Context, value: Any) -> str:
    if isinstance(value, str):
        return value
    current.budget.read(value)
    text = str(current.budget.written(value))
    return MarkedText(text) if has_marks((value,)) else text


def marked(result: Any) -> Any:
    """The result of a filter or method that got marked text; a plain string is marked throughout."""
    return MarkedText(str(result)) if isinstance(result, str) and not isinstance(result, MarkedText) else result


class MarkingFormatter(SandboxedFormatter):
    """str.format, with a check of widths and with marks."""

    def formatted(self, text: str, args: Any, kwargs: Any) -> str:
        """The text with its fields filled in."""
        if isinstance(text, MarkedText) and any(text.marks):
            return MarkedText(_FIELD_ENDS.sub("", self.vformat(text, args, kwargs)))
        pieces = _FIELD_ENDS.split(self.vformat(_FIELD_ENDS.sub("", text), args, kwargs))
        return concat(MarkedText(piece) if i % 2 else piece for i, piece in enumerate(pieces))

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        """The value of a field, which is counted."""
        value, first = super().get_field(field_name, args, kwargs)
        current.budget.read(value)
        return value, first

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Convert a value as !r, !s or !a say."""
        result = super().convert_field(value, conversion)
        return marked(result) if has_marks((value,)) else result

    def format_field(self, value: Any, format_spec: str) -> str:
        """The text of a field, between `_FIELD_BEGIN` and `_FIELD_END` if it is marked."""
        format_spec = _FIELD_ENDS.sub("", format_spec)
        check_widths(format_spec)
        text = str(super().format_field(value, format_spec))
        if not has_marks((value,)):
            return text
        if _FIELD_ENDS.search(text):
            raise ValueError("a text contains U+FDD0 or U+FDD1, which are no characters")
        return f"{_FIELD_BEGIN}{text}{_FIELD_END}"


def check_widths(text: str) -> None:
    """Check all numbers in a text as widths of fields.

    Raises:
        TemplateLimitError: one is too large.
    """
    for number in _NUMBER.findall(text):
        check_width(int(number[:10]))


def check_method(name: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], budget: Budget) -> None:
    """Check the arguments of a method of a text that can make it longer."""
    if name in _WIDTH_METHODS:
        for width in (*args, *kwargs.values()):
            check_width(width)
    if name == "expandtabs":
        budget.fits(len(text) * max([8, *(x for x in (*args, *kwargs.values()) if isinstance(x, int))]))
    if name == "replace":
        _check_replace(text, *args)
    if name == "join" and args:
        budget.fits(len(args[0]) * len(text) + sum(len(item) for item in args[0] if isinstance(item, str)))
    if name in ("split", "rsplit", "splitlines"):
        separators = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, str) and arg] or _WHITE_SPACE
        budget.spend(_STEPS_OF_PIECE * sum(map(text.count, separators)))


def _check_replace(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        count = text.count(old)
        current.budget.spend(count >> 2)
        current.budget.fits(len(text) + count * len(new))


def check_product(left: Any, right: Any, budget: Budget) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MOST_BITS:
            raise OverflowError("a product is too large")
        return
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            budget.fits(budget.size(sequence) * max(count, 0))


def check_directives(text: str, values: Any) -> None:
    """Check the widths of a format for the operator `%`, and the size of what it names by keys."""
    budget = current.budget
    budget.spend(text.count("%"))
    for directive in _DIRECTIVE.findall(text):
        check_widths(directive)
        if "*" in directive:
            for value in values if isinstance(values, tuple) else (values,):
                check_width(value)
    named = values[0] if isinstance(values, tuple) and len(values) == 1 else values
    if isinstance(named, dict) and (keys := _KEY.findall(text)):
        sizes = {key: budget.size(value) for key, value in named.items()}
        largest = max(sizes.values(), default=0)  # for keys with parentheses
        budget.fits(sum(sizes.get(key, largest) for key in keys))


def counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts what it reads and writes, and whose result is marked where an argument is."""
    passes = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        budget = current.budget
        budget.spend(_STEPS)
        first, values = args[:passes], args[passes:]
        if name not in _SHALLOW:
            budget.read(*values, *kwargs.values())
        others = (*values[1:], *kwargs.values())
        if name in _WIDTH_FILTERS:
            for value in others:
                check_width(_ROUND * value if name == "round" and isinstance(value, int) else value)
        if name in _REPEAT_TEXT:
            budget.fits(
                max((len(value) for value in others if isinstance(value, str)), default=0) * budget.size(values[0])
            )
        if name == "replace":
            _check_replace(str(values[0]), *others)
        if name == "format":
            check_directives(str(values[0]), values[1:] or (kwargs,))
        if name in _TAKE_ITEMS and values and isinstance(values[0], str | list | tuple | dict | range):
            steps = 1 if name in ("join", "list") else _STEPS_OF_COMPARED
            budget.spend(len(values[0]) * (_STEPS_OF_PIECE if isinstance(values[0], str) else steps))
        any_marks = has_marks((*values, *kwargs.values()))
        if any_marks:
            values = tuple(own(value) if type(value) is str else value for value in values)
        result = budget.written(function(*first, *values, **kwargs))
        return marked(result) if any_marks and name not in _RETURN_ITEMS else result

    return counted


def counted_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A test that counts what it reads."""

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        if name in _DEEP_TESTS:
            current.budget.read(*args, *kwargs.values())
        current.budget.spend(1)
        return function(*args, **kwargs)

    return counted


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like Jinja2's filter, but without escaping HTML: the model would read the escapes."""
    budget = current.budget
    extra = (indent if isinstance(indent, int) else len(indent or "")) + sum(map(len, separators or ()))
    budget.fits(budget.size(value) * (1 + max(0, extra)))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_context
def _join(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Jinja2's filter, with marks."""
    budget = current.budget
    if attribute is not None:
        value = context.environment.call_filter("map", value, kwargs={"attribute": attribute}, context=context)
    texts = [to_text(context, item) for item in budget.counted(value)]
    separator = to_text(context, d)
    budget.fits(len(texts) * len(separator) + sum(map(len, texts)))
    return own(separator).join(texts) if current.marks else separator.join(texts)


@pass_context
def _sum(context: Context, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Jinja2's filter, whose additions are counted."""
    environment: Any = context.environment
    if attribute is not None:
        iterable = environment.call_filter("map", iterable, kwargs={"attribute": attribute}, context=context)
    return functools.reduce(lambda left, right: environment.call_binop(context, "+", left, right), iterable, start)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja2's filter, with marks: its own joins lines as plain strings, which have none."""
    if not isinstance(s, MarkedText):
        return do_indent(s, width, first, blank)
    indention = own(width if isinstance(width, str) else " " * width)
    lines = (s + "\n").splitlines()
    indented = [indention + line if (line or blank if i else first) else line for i, line in enumerate(lines)]
    return own("\n").join(indented)


# Filters in place of Jinja2's, before they are counted.
FILTERS: dict[str, Callable[..., Any]] = {"tojson": _to_json, "join": _join, "sum": _sum, "indent": _indent}
