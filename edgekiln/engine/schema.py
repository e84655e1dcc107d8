"""The base class of the models of an engine's JSON files, and the sentences for values that they refuse.

The reasons are those of cpp/src/util/json_reader.cpp, word for word.
"""

import json
import types
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

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
    "literal_error": "it is not known",
}
_CUSTOM = "reason"
_LONGEST = 200
MAX_INT = 2**63 - 1


class Schema(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refusal(reason: str) -> PydanticCustomError:
    """The error for a validator to raise, which `first_reason` gives back word for word."""
    return PydanticCustomError(_CUSTOM, "{reason}", {"reason": reason})


def items_at_least(low: int) -> Any:
    """The type of the integers of a list that are not less than `low`."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise refusal(f"it is not an integer of at least {low}") from error

    return Annotated[int, Field(ge=low, le=MAX_INT), WrapValidator(check)]


_Model = TypeVar("_Model", bound=Schema)


def validated(model: type[_Model], value: Any) -> _Model:
    """A model of what `parse_json` returned. Nothing is converted: 1.0 and "1" are no integers; null counts as missing.

    Raises:
        ValidationError: see `first_reason`.
    """
    # Validating text gives strict validation of JSON's types. Sorted, so that the first error is that of libedgekiln.
    return model.model_validate_json(json.dumps(_without_nulls(model, value), sort_keys=True), strict=True)


def first_reason(error: ValidationError) -> str:
    """The first error of a validation as "FIELD: REASON", in a line of moderate length."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return short(f"{where}: {_reason(first)}" if where else _reason(first))


def short(reason: str) -> str:
    """A reason in one line of at most 200 characters: names and values of an untrusted file can be long."""
    line = "".join(" " if character < " " else character for character in reason)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


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
    if value is None and isinstance(error["loc"][-1], str):
        return _REASONS["missing"]
    if kind == "literal_error" and not isinstance(value, str):
        return _REASONS["string_type"]
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
