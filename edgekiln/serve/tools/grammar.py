"""Grammars of answers that must call tools, in the style of the model, with arguments that fit their JSON schemas."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.styles import Style
from edgekiln.serve.tools.python_calls import NAME
from edgekiln.serve.tools.reasoning import ReasoningTags
from edgekiln.serve.tools.rules import Rules, escaped, json_of, quoted
from edgekiln.serve.tools.xml_calls import choices_of, is_text

# Keywords of a schema that do not limit the value.
_ANNOTATIONS = {
    "type",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
}

# Calls of an answer that must call: small models go on with further ones until the answer is cut.
_MOST_CALLS = 16
_MORE = f"{{0,{_MOST_CALLS - 1}}}"


def tool_grammar(
    style: Style,
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    name: str | None = None,
    parallel: bool = True,
    reasoning: ReasoningTags | None = None,
    inside: bool = False,
    demanded: bool = True,
) -> str:
    """The grammar, in llguidance's syntax, of an answer that calls tools and nothing else.

    Args:
        style: of the model's tool calls.
        tools: in OpenAI's form.
        tokenizer: of the engine; texts that are special tokens there are written as such.
        name: of the only function that may be called; None for any of them.
        parallel: more than one call is allowed, up to 16.
        reasoning: the tags of reasoning, which may come before the calls; None where the model does not reason.
        inside: the answer begins within reasoning.
        demanded: there must be a call. Otherwise the answer is any text, but calls in it, once begun, are valid.

    Raises:
        RequestError: there is no such tool, or its schema has something that the style cannot demand.
    """
    functions = _functions(tools, name)
    rules = _ToolRules(style, tokenizer)
    calls = (rules.calls if demanded else rules.calls_or_text)(functions, parallel)
    before = rules.reasoning(reasoning, inside) if reasoning else ""
    rules.add("start", f"{before}({calls})" if before else calls)
    return rules.text()


def json_grammar(
    schema: Mapping[str, Any], tokenizer: Tokenizer, reasoning: ReasoningTags | None = None, inside: bool = False
) -> str:
    """The grammar, in llguidance's syntax, of an answer in JSON of a schema, after reasoning.

    Args:
        schema: JSON schema.
        tokenizer, reasoning, inside: as for `tool_grammar`. Where the model does not reason, a schema needs no grammar.
    """
    rules = Rules(tokenizer)
    before = rules.reasoning(reasoning, inside) if reasoning else ""
    rules.add("start", f"{before}{json_of(schema)}")
    return rules.text()


def _functions(tools: Sequence[Mapping[str, Any]], name: str | None) -> list[Mapping[str, Any]]:
    functions = [tool.get("function", tool) for tool in tools]
    found = [function for function in functions if name is None or function["name"] == name]
    if not found:
        raise RequestError(f"tool_choice names {name!r:.80}, which is not in tools" if name else "tools is empty")
    return found


class _ToolRules(Rules):
    """The rules of a grammar of tool calls."""

    def __init__(self, style: Style, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._style = style

    def calls(self, functions: Sequence[Mapping[str, Any]], parallel: bool) -> str:
        """Calls with the texts around them."""
        style, rest = self._style, self._after_opening(functions, parallel)
        if style.bare:
            return rest
        block = self.add("block", f"{self.literal(style.opens[0])} {rest}")
        between = r"/\n?/ " if style.padding else ""
        return f"{block} ({between}{block}){_MORE}" if parallel and style.many == "repeat" else block

    def calls_or_text(self, functions: Sequence[Mapping[str, Any]], parallel: bool) -> str:
        """Any text; where it begins calls, the rest of them must follow."""
        style, rest = self._style, self._after_opening(functions, parallel)
        if style.bare:
            text = self.add("text", r"/[ \n]*([^{ \n](?s:.*))?/")
            return f"{rest} | {text}"
        before = self.text_up_to("before", style.opens[0])
        text = self.add("text", "/(?s:.*)/")
        return f"({before} {rest})* {text}" if parallel else f"{before} {rest} | {text}"

    def _after_opening(self, functions: Sequence[Mapping[str, Any]], parallel: bool) -> str:
        style, call = self._style, self._call(functions, parallel)
        if style.body != "json" and style.many == "list":
            call = f'"[" {call} (", " {call}){_MORE} "]"' if parallel else f'"[" {call} "]"'
        elif style.many not in ("list", "repeat") and parallel:
            call = f"{call} ({quoted(style.many)} {call}){_MORE}"
        if style.bare or not style.close:
            return call
        pad = quoted(style.padding) if style.padding else ""
        return f"{pad} {call} {pad} {self.literal(style.close)}"

    def _call(self, functions: Sequence[Mapping[str, Any]], parallel: bool) -> str:
        style = self._style
        if style.body == "json":
            schema, definitions = self._json_calls(functions)
            if style.many == "list":
                most = _MOST_CALLS if parallel else 1
                schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": most}
            return self.add("call", json_of(schema | {"$defs": definitions}))
        write: Callable[[str, Mapping[str, Any]], str] = {
            "named": self._named, "python": self._python, "xml": self._xml
        }[style.body]  # fmt: skip
        names = [self.add(f"f{index}", write(f"f{index}", function)) for index, function in enumerate(functions)]
        return self.add("call", " | ".join(names))

    def _json_calls(self, functions: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The schema of one call, and the schemas of arguments that it refers to."""
        definitions: dict[str, Any] = {}
        calls = []
        for index, function in enumerate(functions):
            parameters = _moved(_parameters(function), f"#/$defs/f{index}")
            definitions[f"f{index}"] = parameters
            calls.append(
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": function["name"]},
                        self._style.arguments: {"$ref": f"#/$defs/f{index}"},
                    },
                    "required": ["name", self._style.arguments],
                    "additionalProperties": False,
                }
            )
        return {"anyOf": calls}, definitions

    def _named(self, _rule: str, function: Mapping[str, Any]) -> str:
        return f"{quoted(function['name'])} {self.literal('[ARGS]')} {json_of(_parameters(function))}"

    def _python(self, rule: str, function: Mapping[str, Any]) -> str:
        """`name(a=1, b="x")` with values in JSON, which the reader of the style takes."""
        values: list[tuple[str, bool]] = []
        for key, schema, required in _properties(function):
            if not NAME.fullmatch(key):
                raise _cannot(function, f"the name {key!r} of a parameter")
            value = self.add(f"{rule}v{len(values)}", f"{quoted(key + '=')} {json_of(schema)}")
            values.append((value, required))
        return f"{quoted(function['name'] + '(')} {self._sequence(rule, values)} {quoted(')')}"

    def _sequence(self, rule: str, values: list[tuple[str, bool]]) -> str:
        """Values in their order, with commas between those that are there."""
        following = {True: '""', False: '""'}  # what comes after, by whether a value is before it
        for index, (value, required) in reversed(list(enumerate(values))):
            rules = {}
            for before in (True, False):
                given = f"{quoted(', ') if before else ''} {value} {following[True]}"
                body = given if required else f"{given} | {following[before]}"
                rules[before] = self.add(f"{rule}s{index}{'n' if before else 'a'}", body)
            following = rules
        return following[False]

    def _xml(self, rule: str, function: Mapping[str, Any]) -> str:
        """Tags; texts as they are."""
        parts = [quoted(f"<function={function['name']}>\n")]
        for index, (key, schema, required) in enumerate(_properties(function)):
            part = self.add(
                f"{rule}p{index}",
                f"{quoted(f'<parameter={key}>' + chr(10))} {self._xml_value(rule, index, function, schema)}",
            )
            parts.append(part if required else f"{part}?")
        return " ".join([*parts, quoted("</function>")])

    def _xml_value(self, rule: str, index: int, function: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
        end = "\n</parameter>\n"
        if not is_text(schema):
            return f"{json_of(schema)} {quoted(end)}"
        texts = choices_of(schema)
        if texts and not any(end.strip() in text for text in texts):
            return f"({' | '.join(map(quoted, texts))}) {quoted(end)}"
        if more := schema.keys() - _ANNOTATIONS - {"$defs", "definitions"}:
            raise _cannot(function, f"{', '.join(sorted(more))} of a text")
        return self.add(f"{rule}t{index}[lazy]", rf"/(?s:.*){escaped(end)}/")


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a function's arguments; without one it has none."""
    given = function.get("parameters")
    return given if given else {"type": "object", "properties": {}, "additionalProperties": False}


def _properties(function: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Name, schema and whether it is required of each parameter, for styles that write each on its own."""
    schema = _parameters(function)
    known = {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "strict"}
    if more := schema.keys() - known - _ANNOTATIONS:
        raise _cannot(function, f"{', '.join(sorted(more))} of the parameters")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if missing := [key for key in required if key not in properties]:
        raise _cannot(function, f"the required parameter {missing[0]!r}, which has no schema")
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return [
        (key, {**value, **definitions} if isinstance(value, Mapping) else {}, key in required)
        for key, value in properties.items()
    ]


def _cannot(function: Mapping[str, Any], what: str) -> RequestError:
    return RequestError(
        f"tool {function['name']!r:.80}: the way this model writes tool calls cannot demand {what}: leave it out, or "
        "use tool_choice auto"
    )


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references to its own root lead to `root`."""
    if isinstance(schema, Mapping):
        moved = {key: _moved(value, root) for key, value in schema.items()}
        if isinstance(reference := moved.get("$ref"), str) and reference.startswith("#"):
            moved["$ref"] = root + reference[1:]
        return moved
    return [_moved(item, root) for item in schema] if isinstance(schema, list) else schema
