"""Function calls in tags, whose values are texts, as JSON."""

import json
import re
from collections.abc import Mapping
from typing import Any

# The tags of a whole call.
CALL = re.compile(r"\s*<function=([^>\n]+)>\s*((?:<parameter=[^>\n]+>.*?</parameter>\s*)*)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|$)", re.DOTALL)

# JSON schemas of the parameters of each function.
Schemas = Mapping[str, Mapping[str, Any]]


def call_of_tags(match: re.Match[str], schemas: Schemas) -> tuple[str, str]:
    """The function's name and the JSON text of the arguments of a match of `CALL`."""
    name = match[1].strip()
    properties = schemas.get(name, {}).get("properties")
    types = properties if isinstance(properties, Mapping) else {}
    values = {key.strip(): _value(value, types.get(key.strip())) for key, value in _PARAMETER.findall(match[2])}
    return name, json.dumps(values, ensure_ascii=False)


def _value(text: str, schema: object) -> Any:
    """A value that is written as text where its schema says so; else in JSON, if it is JSON."""
    if isinstance(schema, Mapping) and is_text(schema):
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def is_text(schema: Mapping[str, Any]) -> bool:
    """Whether values of a JSON schema are strings, which tags have as they are."""
    choices = choices_of(schema)
    return schema.get("type") == "string" or (bool(choices) and all(isinstance(choice, str) for choice in choices))


def choices_of(schema: Mapping[str, Any]) -> list[Any]:
    """The only values of a JSON schema, where it lists them."""
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
