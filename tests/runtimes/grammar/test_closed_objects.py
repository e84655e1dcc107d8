"""Objects of schemas are closed where that takes no answer away that could be wanted, and nowhere else."""

import pytest

from edgekiln.runtimes.grammar.closed_objects import closed

OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OPEN, CLOSED),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"type": "array", "items": OPEN}, {"type": "array", "items": CLOSED}),
        ({"prefixItems": [OPEN, {}], "items": False}, {"prefixItems": [CLOSED, {}], "items": False}),
        ({"anyOf": [OPEN, {"type": "null"}], "title": "x"}, {"anyOf": [CLOSED, {"type": "null"}], "title": "x"}),
        ({"$ref": "#/$defs/x", "$defs": {"x": OPEN}}, {"$ref": "#/$defs/x", "$defs": {"x": CLOSED}}),
        (
            {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": OPEN}},
            {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": CLOSED}},
        ),
        ({"type": "object", "additionalProperties": OPEN}, {"type": "object", "additionalProperties": CLOSED}),
        (
            {"properties": {"x": OPEN, "properties": True}, "additionalProperties": True},
            {"properties": {"x": CLOSED, "properties": True}, "additionalProperties": True},
        ),
    ],
)
def test_objects_that_are_closed(schema, expected):
    before = str(schema)
    assert closed(schema) == expected
    assert str(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**OPEN, "additionalProperties": True},
        {**OPEN, "patternProperties": {"^x": {}}},
        {**OPEN, "required": ["a", "b"]},
        {**OPEN, "minProperties": 2},
        # Each of these could become a schema of no value, or of values that the open one refuses.
        {"allOf": [OPEN, {"properties": {"b": {}}}]},
        {**OPEN, "anyOf": [{"properties": {"b": {}}}, {"required": ["a"]}]},
        {"oneOf": [OPEN, {"properties": {"b": {}}}]},
        {**OPEN, "$ref": "#/$defs/x", "$defs": {"x": {"properties": {"b": {}}}}},
        {"properties": {"a": OPEN, "b": {"allOf": [OPEN, OPEN]}}},
        {"not": OPEN},
        # Values and names of properties are no schemas.
        {"enum": [OPEN], "default": OPEN},
        {"const": {"properties": {}}},
        # Wrong schemas are refused later.
        {"properties": 3},
        {"properties": {}, "required": 3},
        {"properties": {}, "minProperties": "x"},
        {"allOf": 3, "properties": {}},
        {"anyOf": 3},
        {"items": [3]},
    ],
)
def test_schemas_that_stay_as_they_are(schema):
    assert closed(schema) == schema
