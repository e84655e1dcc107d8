"""The base class of the models of an engine's JSON files, and the sentences for values that they refuse.

The reasons are those of cpp/src/util/json_reader.cpp, word for word.
"""

import json
import re
import types
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from edgekiln.engine import json_text
from edgekiln.errors import EngineError

_REASONS = {
    "missing": "it is missing",
    "string_type": "it is not a string",
    "float_type": "it is not a number",
    "bool_type": "it is not true or false",
    "list_type": "it is not a list",
    "dict_type": "it is not an object",
    "model_type": "it is not an object",
    "extra_forbidden": "it is not known",
}
_CUSTOM = "reason"
_LONGEST = 60
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
MAX_INT = 2**63 - 1


class Schema(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Model = TypeVar("_Model", bound=BaseModel)


def parse_json(data: bytes, path: Path) -> Any:
    """Parse a JSON file of an engine, see `json_text.parse_json`.

    Raises:
        EngineError: it is not JSON.
    """
    try:
        return json_text.parse_json(data)
    except ValueError as error:
        raise damaged(path, "it is not JSON") from error


def validate(model: type[_Model], value: Any, path: Path) -> _Model:
    """A model of what `parse_json` returned. Nothing is converted: 1.0 and "1" are no integers; null counts as missing.

    Raises:
        EngineError: a value that the model refuses; the message names the first one, as libedgekiln does.
    """
    # Validating text is strict about JSON's types. Sorted, as libedgekiln's objects are.
    text = json.dumps(_without_nulls(model, value), sort_keys=True)
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(shown(str(part)) for part in first["loc"])
        raise damaged(path, f"{where}: {_reason(first)}" if where else _reason(first)) from error


def refusal(reason: str) -> PydanticCustomError:
    """The error for a validator to raise, whose reason `validate` gives word for word."""
    return PydanticCustomError(_CUSTOM, "{reason}", {"reason": reason})


def damaged(path: Path, reason: str) -> EngineError:
    """The error for a file of an engine whose contents are wrong for `reason`."""
    return EngineError(f"{path} is damaged: {reason}, build the engine again")


def shown(text: str) -> str:
    """A text of an untrusted file for an error message: its first 60 characters, without control characters."""
    return _CONTROL.sub("?", text[:_LONGEST]) + ("\u2026" if len(text) > _LONGEST else "")


def version_error(path: Path, version: object, supported: int) -> EngineError:
    """The error for a file of another schema version: an older engine is to be rebuilt, edgekiln is to be upgraded.

    Args:
        path: the file.
        version: its schema version; anything, because the file is not trusted.
        supported: the only version that this edgekiln reads.
    """
    older = isinstance(version, int) and version < supported
    fix = "build the engine again" if older else "upgrade edgekiln"
    return EngineError(f"{path} has schema version {version!r:.60}, this edgekiln reads version {supported}: {fix}")


def _reason(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    if kind == _CUSTOM:
        return error["msg"]
    if value is None and kind != "extra_forbidden" and isinstance(error["loc"][-1], str):
        return _REASONS["missing"]
    if kind == "literal_error":
        return f"{shown(value)} is not known" if isinstance(value, str) else _REASONS["string_type"]
    if kind == "greater_than_equal":
        return f"it is {value}, the least is {error['ctx']['ge']}"
    if kind.startswith("int_") or kind == "less_than_equal":
        return "it is not an integer"
    return _REASONS.get(kind) or error["msg"]


def _without_nulls(annotation: Any, value: Any) -> Any:
    """`value` without the known fields that are null, in objects that are models."""
    if isinstance(annotation, types.UnionType):
        annotation = get_args(annotation)[0]
    if not isinstance(value, dict) or not isinstance(annotation, type) or not issubclass(annotation, Schema):
        return value
    fields = annotation.model_fields
    return {
        key: _without_nulls(fields[key].annotation, item) if key in fields else item
        for key, item in value.items()
        if item is not None or key not in fields
    }
