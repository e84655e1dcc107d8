"""A Jinja2 environment for chat templates: transformers' extensions, the sandbox, a budget, and marks on given text.

Jinja's sandbox keeps a template from Python's internals. This one also counts its work, and carries the marks of
`MarkedText` through operators, filters and calls. For both, the compiler is made to call the environment where it
would otherwise write Python operators, and nothing is computed while a template is compiled.
"""

import functools
import json
import re
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from edgekiln.runtimes.text.marked_text import MarkedText, concat, own
from edgekiln.runtimes.text.template_budget import VIEWS, Budget, check_width

# Nodes of a template that cost one step.
_NODES_PER_STEP = 32
_STEPS_OF_CALL = 4
# These write HTML, or random text of any length, which no prompt needs.
_NO_FILTERS = ("urlize", "xmlattr", "striptags", "pprint")
_NO_GLOBALS = ("lipsum",)
# Filters that return an item of their input, whose marks it keeps.
_RETURN_ITEMS = {"attr", "d", "default", "first", "last", "max", "min", "random", "sum"}
# Filters that take a text as its characters.
_TAKE_CHARACTERS = {
    "dictsort",
    "groupby",
    "join",
    "max",
    "min",
    "sort",
    "sum",
    "title",
    "unique",
    "urlencode",
    "wordwrap",
}
_MAY_CONTAIN_MARKS = (MarkedText, list, tuple, dict, set, Iterator, *VIEWS)
_NO_METHODS = {"translate", "maketrans", "encode", "to_bytes"}
_WIDTH_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs"}
_WIDTH_FILTERS = {"batch", "center", "indent", "round", "slice", "tojson"}
_REPEAT_TEXT = {"indent", "tojson", "wordwrap"}
_ROUND = 400  # `round` computes a power of ten
_FORMAT_WIDTH = re.compile(r"\d+")
_PERCENT_WIDTH = re.compile(r"%[^a-zA-Z%]*")
_MOST_BITS = 16_384  # of an integer
# Around a field of str.format; Unicode has no such characters.
_FIELD_BEGIN, _FIELD_END = "\ufdd0", "\ufdd1"
_FIELD_ENDS = re.compile(f"[{_FIELD_BEGIN}{_FIELD_END}]")


class _Current(threading.local):
    """The rendering of this thread."""

    budget = Budget({})
    marks = False  # whether variables are marked


_current = _Current()


def render(template: str, variables: dict[str, Any], marks: bool) -> str:
    """Render a template.

    Args:
        template: Jinja2 source.
        variables: of the template.
        marks: texts in them are `MarkedText`; so is the result, then.

    Raises:
        TemplateLimitError: it takes too long or writes too much.
        Exception: of any type; the template is invalid or fails.
    """
    previous = _current.budget, _current.marks
    _current.budget, _current.marks = Budget(variables), marks
    try:
        pieces: list[str] = []
        length = 0
        for piece in _compile(template).generate(**variables):
            pieces.append(piece)
            length += len(piece)
            _current.budget.spend(1)
            _current.budget.fits(length)
        return own("").join(pieces) if marks else "".join(pieces)
    finally:
        _current.budget, _current.marks = previous


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    return TemplateEnvironment().from_string(template)


class GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's tokens for training; no effect here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block to a scope, so that variables set inside stay inside, as in transformers."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class BudgetedCode(CodeGenerator):
    """Writes Python in which loops, macros and native operators go through the environment."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        """Count each round of a loop, also those that its condition skips."""
        node.body.insert(0, _spend(node.body))
        if node.test is not None:
            node.test = nodes.And(nodes.EnvironmentAttribute("spend(1)"), node.test)
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> Any:
        """Count each call of a macro."""
        node.body.insert(0, _spend(node.body))
        return super().macro_body(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        """Count the operands of a comparison."""
        self.write("(environment.read(")
        self.visit(node.expr, frame)
        self.write(")")
        for op in node.ops:
            self.visit(op, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        """Count an operand of a comparison."""
        self.write(f" {operators[node.op]} environment.read(")
        self.visit(node.expr, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """Join texts in the environment."""
        self.write("environment.join_texts(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        """Count the keys of a dictionary, which Python hashes."""
        self.write("{")
        for item in node.items:
            self.write("environment.read(")
            self.visit(item.key, frame)
            self.write("): ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        """Take slices in the environment."""
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.part(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
        self.write(")")


def _spend(body: list[nodes.Node]) -> nodes.Node:
    count = sum(1 + sum(1 for _ in node.find_all(nodes.Node)) for node in body)
    spend = nodes.EnvironmentAttribute(f"spend({1 + count // _NODES_PER_STEP})")
    return nodes.ExprStmt(spend).set_lineno(body[0].lineno if body else 1)


@pass_context  # which also keeps the compiler from converting constants
def _to_text(_context: Context, value: Any) -> str:
    if isinstance(value, str):
        return value
    _current.budget.read(value)
    text = str(_current.budget.written(value))
    return MarkedText(text) if _has_marks((value,)) else text


class _Namespace(Namespace):
    """Jinja's namespace, without its contents in its text form, which can be of any size."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Formatter(SandboxedFormatter):
    """str.format, with a check of widths and with marks."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        value, first = super().get_field(field_name, args, kwargs)
        _current.budget.read(value)
        return value, first

    def format_field(self, value: Any, format_spec: str) -> str:
        format_spec = _FIELD_ENDS.sub("", format_spec)
        for number in _FORMAT_WIDTH.findall(format_spec):
            check_width(int(number[:10]))
        text = str(super().format_field(value, format_spec))
        if not _has_marks((value,)):
            return text
        if _FIELD_ENDS.search(text):
            raise ValueError("a text contains U+FDD0 or U+FDD1, which are no characters")
        return f"{_FIELD_BEGIN}{text}{_FIELD_END}"


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
            finalize=_to_text,
        )
        self.globals.update(raise_exception=_raise, strftime_now=_now, namespace=_Namespace)
        for name in _NO_GLOBALS:
            del self.globals[name]
        self.filters.update(tojson=_to_json, join=_join, sum=_sum)
        self.filters = {
            name: _counted_filter(name, function) for name, function in self.filters.items() if name not in _NO_FILTERS
        }
        self.tests = {name: _counted_test(function) for name, function in self.tests.items()}
        self.concat = self._concat  # type: ignore[method-assign]

    def spend(self, steps: int) -> bool:
        """Count steps; returns True."""
        return _current.budget.spend(steps)

    def read(self, value: Any) -> Any:
        """Count a value that is compared, and return it."""
        _current.budget.read(value)
        return value

    def part(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """A slice of a value."""
        return _current.budget.written(value[start:stop:step])

    def join_texts(self, context: Context, values: Iterable[Any]) -> str:
        """The operator `~`."""
        return self._concat([_to_text(context, value) for value in values])

    def _concat(self, pieces: Iterable[str]) -> str:
        pieces = list(pieces)
        _current.budget.fits(sum(map(len, pieces)))
        return str(_current.budget.written(concat(pieces)))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item of a value; a tuple as a key counts as read."""
        if isinstance(argument, tuple):
            _current.budget.read(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of arithmetic, after a check of what it makes."""
        budget = _current.budget
        budget.read(left, right)
        if operator == "*":
            _check_product(left, right, budget)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > _MOST_BITS:
                raise OverflowError("a power is too large")
        elif operator == "%" and isinstance(left, str):
            _check_directives(left, right)
            left = own(left) if _has_marks((right,)) else left
        return budget.written(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format and str.format_map with a formatter that checks widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__
        takes_mapping = value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            if takes_mapping:
                (kwargs,), args = args, ()
            return _with_marks(_Formatter(self).vformat(text, args, kwargs), text)

        return formatted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, method or macro, after a check of what it makes."""
        budget = _current.budget
        budget.spend(_STEPS_OF_CALL)
        receiver = getattr(__obj, "__self__", None)
        if not isinstance(__obj, types.BuiltinMethodType | types.MethodType) or not isinstance(receiver, str | int):
            budget.read(*args, *kwargs.values())
            return budget.written(super().call(__context, __obj, *args, **kwargs))
        name = __obj.__name__
        budget.read(receiver, *args, *kwargs.values())
        if name in _NO_METHODS:
            raise SecurityError(f"the method {name} is not offered to templates")
        if not isinstance(receiver, str):
            return budget.written(super().call(__context, __obj, *args, **kwargs))
        if name == "join":
            args = (list(budget.counted(args[0])), *args[1:]) if args else args
            budget.read(*args)
        marked = _has_marks((receiver, *args, *kwargs.values()))
        if marked:
            __obj = getattr(own(receiver), name)
        _check_method(name, receiver, args, kwargs, budget)
        result = budget.written(super().call(__context, __obj, *args, **kwargs))
        return MarkedText(result) if marked and type(result) is str else result


def _has_marks(values: Iterable[Any]) -> bool:
    """Whether a value is marked, or may contain marked text."""
    return _current.marks and any(isinstance(value, _MAY_CONTAIN_MARKS) for value in values)


def _check_method(name: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], budget: Budget) -> None:
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
        budget.spend(len(text) >> 4)


def _check_replace(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        count = text.count(old)
        _current.budget.spend(count >> 2)
        _current.budget.fits(len(text) + count * len(new))


def _check_product(left: Any, right: Any, budget: Budget) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MOST_BITS:
            raise OverflowError("a product is too large")
        return
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            budget.fits(budget.size(sequence) * max(count, 0))


def _check_directives(text: str, values: Any) -> None:
    """Check the widths of a format for the operator `%`."""
    for directive in _PERCENT_WIDTH.findall(text):
        for number in _FORMAT_WIDTH.findall(directive):
            check_width(int(number[:10]))
        if "*" in directive:
            for value in values if isinstance(values, tuple) else (values,):
                check_width(value)
    _current.budget.spend(text.count("%"))


def _with_marks(text: str, template: str) -> str:
    """The result of str.format, with marks for its fields instead of the characters around them."""
    if _FIELD_BEGIN not in text and not isinstance(template, MarkedText):
        return str(_current.budget.written(text))
    if isinstance(template, MarkedText) and any(template.marks):
        return MarkedText(_FIELD_ENDS.sub("", text))
    pieces = [MarkedText(piece) if i % 2 else piece for i, piece in enumerate(_FIELD_ENDS.split(text))]
    return str(_current.budget.written(concat(pieces)))


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts what it reads and writes, and whose result is marked where an argument is."""
    passes = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        budget = _current.budget
        first, values = args[:passes], args[passes:]
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
            _check_directives(str(values[0]), values[1:] or (kwargs,))
        if name in _TAKE_CHARACTERS and values and isinstance(values[0], str | list | tuple | dict | range):
            budget.spend(len(values[0]))
        marked = _has_marks((*values, *kwargs.values()))
        if marked:
            values = tuple(own(value) if type(value) is str else value for value in values)
        result = budget.written(function(*first, *values, **kwargs))
        return MarkedText(result) if marked and type(result) is str and name not in _RETURN_ITEMS else result

    return counted


def _counted_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        _current.budget.read(*args, *kwargs.values())
        return function(*args, **kwargs)

    return counted


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    for number in _FORMAT_WIDTH.findall(pattern):
        check_width(int(number[:10]))
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like Jinja2's filter, but without escaping HTML: the model would read the escapes."""
    budget = _current.budget
    extra = indent if isinstance(indent, int) else len(indent or "")
    budget.fits(budget.size(value) * (1 + max(0, extra)))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_context
def _join(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Jinja2's filter, with marks."""
    budget = _current.budget
    if attribute is not None:
        value = context.environment.call_filter("map", value, kwargs={"attribute": attribute}, context=context)
    texts = [_to_text(context, item) for item in budget.counted(value)]
    budget.fits(len(texts) * len(d) + sum(map(len, texts)))
    return own(_to_text(context, d)).join(texts) if _current.marks else str(d).join(texts)


@pass_context
def _sum(context: Context, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Jinja2's filter, whose additions are counted."""
    environment = context.environment
    assert isinstance(environment, TemplateEnvironment)
    if attribute is not None:
        iterable = environment.call_filter("map", iterable, kwargs={"attribute": attribute}, context=context)
    return functools.reduce(lambda left, right: environment.call_binop(context, "+", left, right), iterable, start)
