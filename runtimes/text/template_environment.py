"""A Jinja2 environment for chat templates: transformers' extensions, the sandbox, a budget, and marks on given text.

Jinja's sandbox keeps a template from Python's internals. This one also counts its work, and carries the marks of
`MarkedText` through operators, filters and calls.
"""

import functools
import types
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import LoopControlExtension
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from edgekiln.runtimes.text.marked_text import concat, own
from edgekiln.runtimes.text.template_budget import Budget, current
from edgekiln.runtimes.text.template_compiler import BudgetedCode, GenerationBlocks
from edgekiln.runtimes.text.template_filters import (
    FILTERS,
    MOST_BITS,
    NO_FILTERS,
    NO_METHODS,
    MarkingFormatter,
    check_directives,
    check_method,
    check_product,
    check_widths,
    counted_filter,
    counted_test,
    has_marks,
    marked,
    to_text,
)

_NO_GLOBALS = ("lipsum",)  # random text of any length
_STEPS_OF_CALL = 8


def render(template: str, variables: dict[str, Any], marks: bool, steps: int) -> str:
    """Render a template.

    Args:
        template: Jinja2 source.
        variables: of the template.
        marks: texts in them are `MarkedText`; so is the result, then.
        steps: that the rendering may take, besides those that longer messages add.

    Raises:
        TemplateLimitError: it takes too long or writes too much.
        Exception: of any type; the template is invalid or fails.
    """
    previous = current.budget, current.marks
    current.budget, current.marks = Budget(variables, steps), marks
    try:
        pieces: list[str] = []
        length = 0
        for piece in _compile(template).generate(**variables):
            pieces.append(piece)
            length += len(piece)
            current.budget.spend(1)
            current.budget.fits(length)
        return own("").join(pieces) if marks else "".join(pieces)
    finally:
        current.budget, current.marks = previous


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    return TemplateEnvironment().from_string(template)


class _Namespace(Namespace):
    """Jinja's namespace, without its contents in its text form, which can be of any size."""

    def __repr__(self) -> str:
        return "<Namespace>"


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment of chat templates. Its methods are called by compiled templates."""

    code_generator_class = BudgetedCode
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        """Set the options, extensions, filters and globals of transformers."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationBlocks, LoopControlExtension],
            optimized=False,
            finalize=to_text,
        )
        self.globals.update(raise_exception=_raise, strftime_now=_now, namespace=_Namespace)
        for name in _NO_GLOBALS:
            del self.globals[name]
        self.filters |= FILTERS
        self.filters = {
            name: counted_filter(name, function) for name, function in self.filters.items() if name not in NO_FILTERS
        }
        self.tests = {
            name: counted_test(name, cast(Callable[..., Any], function)) for name, function in self.tests.items()
        }
        self.concat = self._concat  # type: ignore[method-assign]

    def spend(self, steps: int) -> bool:
        """Count steps; returns True."""
        return current.budget.spend(steps)

    def read(self, value: Any) -> Any:
        """Count a value that is compared, and return it."""
        current.budget.read(value)
        return value

    def part(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """A slice of a value."""
        return current.budget.written(value[start:stop:step])

    def join_texts(self, context: Context, values: Iterable[Any]) -> str:
        """The operator `~`."""
        return self._concat([to_text(context, value) for value in values])

    def _concat(self, pieces: Iterable[str]) -> str:
        pieces = list(pieces)
        current.budget.fits(sum(map(len, pieces)))
        return str(current.budget.written(concat(pieces)))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item of a value; a tuple as a key counts as read."""
        if isinstance(argument, tuple):
            current.budget.read(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of arithmetic, after a check of what it makes."""
        budget = current.budget
        budget.read(left, right)
        if operator == "*":
            check_product(left, right, budget)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > MOST_BITS:
                raise OverflowError("a power is too large")
        elif operator == "%" and isinstance(left, str):
            check_directives(left, right)
            left = own(left) if has_marks((right,)) else left
        return budget.written(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format and str.format_map with a formatter that checks widths."""
        if super().wrap_str_format(value) is None:
            return None
        text = value.__self__
        takes_mapping = value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            if takes_mapping:
                (kwargs,), args = args, ()
            return str(current.budget.written(MarkingFormatter(self).formatted(text, args, kwargs)))

        return formatted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, method or macro, after a check of what it makes."""
        budget = current.budget
        budget.spend(_STEPS_OF_CALL)
        receiver = getattr(__obj, "__self__", None)
        if isinstance(__obj, Macro | LoopContext):  # their body is counted
            return super().call(__context, __obj, *args, **kwargs)
        if not isinstance(__obj, types.BuiltinMethodType | types.MethodType) or not isinstance(receiver, str | int):
            budget.read(*args, *kwargs.values(), *([receiver] if isinstance(receiver, list | tuple) else []))
            return budget.written(super().call(__context, __obj, *args, **kwargs))
        name = __obj.__name__
        budget.read(receiver, *args, *kwargs.values())
        if name in NO_METHODS:
            raise SecurityError(f"the method {name} is not offered to templates")
        if not isinstance(receiver, str):
            return budget.written(super().call(__context, __obj, *args, **kwargs))
        if name == "join":
            args = (list(budget.counted(args[0])), *args[1:]) if args else args
            budget.read(*args)
        any_marks = has_marks((receiver, *args, *kwargs.values()))
        if any_marks:
            __obj = getattr(own(receiver), name)
        check_method(name, receiver, args, kwargs, budget)
        result = budget.written(super().call(__context, __obj, *args, **kwargs))
        return marked(result) if any_marks else result


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    check_widths(pattern)
    return datetime.now().strftime(pattern)
