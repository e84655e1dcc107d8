"""Compile grammars for a tokenizer with llguidance."""

import functools
import json
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from edgekiln.arguments import utf8
from edgekiln.errors import RequestError
from edgekiln.runtimes.grammar.closed_objects import closed
from edgekiln.runtimes.grammar.grammar import Grammar, mask_words
from edgekiln.runtimes.grammar.number_limit import NumberLimit
from edgekiln.runtimes.grammar.vocabulary import vocabulary_of
from edgekiln.runtimes.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from llguidance._lib import JsonCompileOptions

GrammarKind = Literal["json_object", "json_schema", "regex", "lark", "gbnf", "json_in_lark"]
# Kinds in which the length of numbers is limited.
_JSON = ("json_object", "json_schema", "json_in_lark")

# Where JSON allows white space: one space, or a line break with an indentation. Without a limit, small models go on
# with it until the answer is cut.
WHITE_SPACE = r"\x20|\r?\n[\x20\t]{0,32}"
_KEPT = 64  # compiled grammars of a tokenizer

_compilers: "weakref.WeakKeyDictionary[Tokenizer, Callable[[GrammarKind, str], Grammar]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def compile_grammar(tokenizer: Tokenizer, kind: GrammarKind, grammar: str | Mapping[str, Any] = "") -> Grammar:
    """Compile a grammar, the text of answers.

    The last grammars are kept, so that compiling one of them again is free.

    Args:
        tokenizer: of the engine that answers.
        kind: "json_object", any JSON object; "json_schema"; "regex", in the syntax of Rust's crate regex, which matches
            the whole answer; "lark", in llguidance's variant of Lark's syntax, where `<name>` is a special token;
            "gbnf", in the syntax of llama.cpp; "json_in_lark", "lark" with `%json` in it. Except in "regex",
            "lark" and "gbnf", numbers end after 24 characters, and objects have only the properties that they list.
        grammar: the schema as a mapping or JSON text, or the text of the regular expression or grammar.

    Raises:
        RequestError: the grammar is wrong, or has something that llguidance does not support.
        EdgekilnError: llguidance is not installed.
    """
    if kind not in get_args(GrammarKind):
        raise RequestError(f"the kind of a grammar must be one of {', '.join(get_args(GrammarKind))}, got {kind!s:.60}")
    if kind == "json_object":
        kind, grammar = "json_schema", {"type": "object"}
    if kind == "json_schema" and not isinstance(grammar, str):
        grammar = _json_text(grammar)
    if not isinstance(grammar, str):
        raise RequestError(f"a grammar must be text, got {grammar!r:.60}")
    return _compiler_of(tokenizer)(kind, utf8(grammar))


def guidance_options(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Options of llguidance for a JSON schema: its own, with limited white space if they say nothing about it.

    Raises:
        RequestError: its own are no object.
    """
    own = schema.get("x-guidance", {})
    if not isinstance(own, Mapping):
        raise RequestError(f"x-guidance of the JSON schema must be an object, got {own!r:.60}")
    white_space = {} if "whitespace_flexible" in own else {"whitespace_pattern": WHITE_SPACE}
    return {**white_space, **own, "lenient": False}  # what is not supported is refused


def kind_of(grammar: str) -> GrammarKind:
    """Whether the text of a grammar is "lark" or "gbnf"."""
    lark = re.search(r"^\s*(%llguidance\b|start\b[^:\n]*:(?!:=))", grammar, re.MULTILINE)
    return "gbnf" if not lark and re.search(r"^\s*[\w-]+\s*::=", grammar, re.MULTILINE) else "lark"


def _compiler_of(tokenizer: Tokenizer) -> Callable[[GrammarKind, str], Grammar]:
    """The function that compiles for a tokenizer, with the grammars that it keeps."""
    with _lock:
        if tokenizer not in _compilers:
            vocabulary, size, eos = vocabulary_of(tokenizer), tokenizer.size, bool(tokenizer.eos_ids)
            numbers = NumberLimit(vocabulary, mask_words(size, eos))
            compile_for = functools.partial(_compile, vocabulary, numbers, size, eos)
            _compilers[tokenizer] = functools.lru_cache(_KEPT)(compile_for)
        return _compilers[tokenizer]


def _compile(
    vocabulary: "LLTokenizer", numbers: NumberLimit, vocab_size: int, eos: bool, kind: GrammarKind, grammar: str
) -> Grammar:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(vocabulary, _grammar_of(kind, grammar), log_level=0, limits=limits)
    if matcher.is_error():
        raise _refused(kind, matcher.get_error())
    return Grammar(matcher, vocab_size, eos, numbers if kind in _JSON else None)


def _grammar_of(kind: GrammarKind, grammar: str) -> str:
    """A grammar in llguidance's own form."""
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if kind == "regex":
        return LLMatcher.grammar_from_regex(grammar)
    if kind == "json_schema":
        try:
            schema = json.loads(grammar)
        except (ValueError, RecursionError) as error:
            raise _refused(kind, f"it is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise _refused(kind, "it must be a JSON object")
        options = cast("JsonCompileOptions", guidance_options(schema))
        try:
            grammar = json.dumps(closed(schema))
        except RecursionError as error:
            raise _refused(kind, "it is nested too deeply") from error
        return LLMatcher.grammar_from_json_schema(grammar, overrides=options)
    if kind == "gbnf":
        try:
            grammar = gbnf_to_lark(grammar)
        except Exception as error:  # the converter raises bare Exception
            raise _refused(kind, str(error)) from error
    return LLMatcher.grammar_from_lark(grammar)


def _refused(kind: GrammarKind, message: str) -> RequestError:
    name = {"json_schema": "JSON schema", "regex": "regular expression"}.get(kind, "grammar")
    return RequestError(f"the {name} cannot be used ({_reason(message)}): correct it")


def _reason(message: str) -> str:
    """The sentence in an error message of llguidance, which has the place in the grammar in further lines."""
    line = next((line for line in message.splitlines() if line.strip()), "")
    # "at line(column): "; columns of a regular expression count in the grammar around it.
    line = re.sub(r"^(?:at )?(\d+)\(\d+\): ", r"line \1: ", line)
    line = re.sub(r" \(in regex\)|; following special tokens .*", "", line)
    if found := re.search(r"^error: (.*)$", message, re.MULTILINE):
        line = f"{line.removesuffix('regex parse error:').removesuffix(': ')}: {found[1]}".removeprefix(": ")
    return line[:300]


def _json_text(schema: object) -> str:
    if not isinstance(schema, Mapping):
        raise RequestError(f"a JSON schema must be an object, got {schema!r:.60}")
    try:
        return json.dumps(dict(schema), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema is not of JSON's types ({error}): correct it") from error
