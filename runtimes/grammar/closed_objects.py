"""Objects of JSON schemas without properties that the schema does not name.

In JSON schema an object may have any others, unless `additionalProperties` says otherwise. Models go on with them, and
callers that list `properties` do not expect them. What a closed schema allows is valid in the open one, too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_SCHEMA = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
# With these, whether an object is valid depends on several schemas, of which one may name what another does not.
_COMBINED = ("anyOf", "allOf", "$ref", "$dynamicRef")
_EXCLUDED = ("oneOf", "not", "if", "dependentSchemas", "unevaluatedProperties")
_OBJECT = ("properties", "required", "patternProperties", "additionalProperties", "minProperties")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema whose objects have only the properties that it names.

    Objects with `additionalProperties` or `patternProperties`, or without `properties`, stay as they are; so does all
    of a schema that combines schemas of an object.
    """
    if any(map(_is_combined, _all(schema))):
        return dict(schema)
    made: dict[str, Any] = _closed(schema)
    return made


def _is_combined(schema: Mapping[str, Any]) -> bool:
    combined, all_of = [key for key in _COMBINED if key in schema], schema.get("allOf")
    several = len(combined) > 1 or (all_of is not None and not (isinstance(all_of, list) and len(all_of) == 1))
    return (
        several or bool(combined and any(key in schema for key in _OBJECT)) or any(key in schema for key in _EXCLUDED)
    )


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keywords of a schema that hold schemas, with lists or mappings of them."""
    for key, value in schema.items():
        if key in _SCHEMAS and isinstance(value, Mapping):
            yield key, dict(value)
        elif key in (*_SCHEMA_LISTS, "items") and isinstance(value, list):
            yield key, dict(enumerate(value))
        elif key in _SCHEMA:
            yield key, {"": value}


def _all(schema: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for _, parts in _parts(schema):
            for part in parts.values():
                yield from _all(part)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key, parts in _parts(schema):
        new = {name: _closed(part) for name, part in parts.items()}
        made[key] = new if key in _SCHEMAS else list(new.values()) if isinstance(schema[key], list) else new[""]
    if _is_open(schema):
        made["additionalProperties"] = False
    return made


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Whether an object may have properties that its schema does not name, but need have none."""
    properties, required, fewest = schema.get("properties"), schema.get("required", []), schema.get("minProperties", 0)
    if not isinstance(properties, Mapping) or {"additionalProperties", "patternProperties"} & schema.keys():
        return False
    names = isinstance(required, list) and all(isinstance(name, str) and name in properties for name in required)
    return names and isinstance(fewest, int) and fewest <= len(properties)
