"""JSON schemas of rising difficulty, whose values are short."""

import random
from typing import Any

Schema = dict[str, Any]

_WORDS = ["name", "city", "kind", "size", "color", "date", "tags", "owner", "note", "über", "code 2", 'a"b', "items"]


def schema(index: int) -> Schema:
    """Schema number `index` of a hundred: more levels, keywords and references the higher it is."""
    generator = random.Random(index)
    made = _object(generator, levels=1 + index // 40, difficulty=index)
    if index >= 60:
        made["$defs"] = {
            "shared": _object(generator, 1, 40),
            "node": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer", "minimum": 0, "maximum": 99},
                    "next": {"$ref": "#/$defs/leaf"},
                },
                "required": ["id", "next"],
                "additionalProperties": False,
            },
            "leaf": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/shared"}]},
        }
        made["properties"]["reference"] = {"$ref": generator.choice(["#/$defs/shared", "#/$defs/node"])}
        made["required"].append("reference")
    return made


def _object(generator: random.Random, levels: int, difficulty: int) -> Schema:
    names = generator.sample(_WORDS, 2 + (difficulty // 50 if levels > 1 else 0))
    properties = {name: _value(generator, levels - 1, difficulty) for name in names}
    required = names if difficulty < 20 else [name for name in names if generator.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value(generator: random.Random, levels: int, difficulty: int) -> Schema:
    simple: list[Schema] = [
        {"type": "boolean"},
        {"type": "integer", "minimum": -5, "maximum": generator.randint(10, 5000)},
        {"type": "string", "maxLength": 12},
        {"enum": ["red", "green", "blue"]},
    ]
    harder: list[Schema] = [
        {"enum": ["é", "漢字", 'quote " and \\', None, True, 1.5]},
        {"const": {"a": [1, "b"]}},
        {"type": ["integer", "null"], "minimum": 0, "maximum": 7},
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        {"type": "string", "format": generator.choice(["date", "uuid", "ipv4"])},
        {"type": "string", "minLength": 3, "maxLength": 6},
        {"type": "integer", "multipleOf": 5, "exclusiveMinimum": 0, "exclusiveMaximum": 40},
        {"type": "number", "minimum": 0.25, "maximum": 0.75, "multipleOf": 0.25},
        {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^(yes|no)$"}]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]},
        {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    ]
    choices = simple + (harder if difficulty >= 15 else [])
    if levels > 0 and generator.random() < 0.6:
        if generator.random() < 0.5:
            return _object(generator, levels, difficulty)
        kind = generator.random()
        if difficulty >= 30 and kind < 0.3:
            items = [_value(generator, 0, difficulty) for _ in range(2)]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
        return {"type": "array", "items": _value(generator, levels - 1, difficulty), "minItems": 1, "maxItems": 2}
    return generator.choice(choices)
