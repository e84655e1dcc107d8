"""Answers of a form: JSON, JSON of a schema, a regular expression or a grammar, as a constraint on their tokens."""

import asyncio
from typing import Any

from edgekiln.errors import RequestError
from edgekiln.runtimes.grammar.compile import GrammarKind, compile_grammar, kind_of
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.serve.errors import ApiError, bad_request

# Kind of grammar, its source, and the field of the request that has it.
Form = tuple[GrammarKind, Any, str]


def response_form(response_format: object, grammar: str | None, regex: str | None) -> Form | None:
    """The form that a request of chat or text completions asks for; None if it is free text.

    Raises:
        ApiError: the format is unknown, or there are several forms.
    """
    forms: list[Form] = []
    if grammar is not None:
        forms.append((kind_of(grammar), grammar, "grammar"))
    if regex is not None:
        forms.append(("regex", regex, "regex"))
    if response_format is not None and (form := _format(response_format, "response_format")) is not None:
        forms.append(form)
    if len(forms) > 1:
        names = " and ".join(name.partition(".")[0] for _, _, name in forms)
        raise bad_request(f"{names} exclude each other: give one", forms[-1][2].partition(".")[0], "invalid_value")
    return forms[0] if forms else None


def _format(value: object, path: str) -> Form | None:
    if not isinstance(value, dict):
        raise bad_request(f"{path} must be an object with type, got {value!r:.60}", path, "invalid_value")
    if value.get("type") != "json_schema":
        return text_format(value, path)
    inner = value.get("json_schema")
    _check_keys(value, ("type", "json_schema"), path)
    if not isinstance(inner, dict):
        raise bad_request(f"{path}.json_schema must be an object with schema", f"{path}.json_schema", "invalid_value")
    return _schema(inner, f"{path}.json_schema", ("name", "description", "schema", "strict"))


def text_format(value: object, path: str) -> Form | None:
    """A format as /v1/responses has it, with the fields of a schema beside `type`; None if it is free text.

    Raises:
        ApiError: the format is unknown.
    """
    if not isinstance(value, dict):
        raise bad_request(f"{path} must be an object with type, got {value!r:.60}", path, "invalid_value")
    kind = value.get("type")
    if kind == "json_schema":
        return _schema(value, path, ("type", "name", "description", "schema", "strict"))
    _check_keys(value, ("type",), path)
    if kind == "json_object":
        return "json_object", "", path
    if kind != "text":
        message = f"{path}.type must be text, json_object or json_schema, got {kind!r:.40}"
        raise bad_request(message, f"{path}.type", "invalid_value")
    return None


def _schema(value: dict[str, Any], path: str, fields: tuple[str, ...]) -> Form:
    _check_keys(value, fields, path)
    schema = value.get("schema")
    if not isinstance(schema, dict):
        raise bad_request(f"{path}.schema must be an object, got {schema!r:.60}", f"{path}.schema", "invalid_value")
    return "json_schema", schema, f"{path}.schema"


def _check_keys(value: dict[str, Any], known: tuple[str, ...], path: str) -> None:
    for name in value:
        if name not in known:
            raise bad_request(f"there is no field {path}.{name:.60}", f"{path}.{name:.60}", "unknown_parameter")


async def compile_form(tokenizer: Tokenizer, form: Form | None) -> Constraint | None:
    """The constraint of a form; None for free text.

    Raises:
        ApiError: the schema, expression or grammar is wrong, or has something that is not supported.
    """
    if form is None:
        return None
    kind, source, path = form
    try:
        return await asyncio.to_thread(compile_grammar, tokenizer, kind, source)
    except RequestError as error:
        raise ApiError(400, str(error), path, "invalid_value") from error
