"""A digest of what an answer of a batch depends on, by which a later run knows the answers that it may keep."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE
from edgekiln.runtimes.generate.options import GenerateOptions

if TYPE_CHECKING:
    from edgekiln.api import Engine

_DIGITS = 16
# The answer is the same with and without; reports say when an engine was built.
_WITHOUT_EFFECT = ("speculate",)
_REPORTS = (REPORT_FILE, QUANTIZATION_FILE)
_DEFAULTS = {field.name: field.default for field in fields(GenerateOptions)}


class BatchDigest:
    """Digests of the requests of a batch."""

    def __init__(self, engine: "Engine", options: Mapping[str, Any]) -> None:
        """Note what the requests share: the engine, and the options that a request may override."""
        files = {name: hashed for name, hashed in engine.manifest.files.items() if name not in _REPORTS}
        self._engine = _json([files, engine.manifest.sampling.model_dump()])
        self._options = options

    def of(self, request: Mapping[str, Any] | Exception) -> str:
        """16 hexadecimal digits for a request, or for the error in its place."""
        if isinstance(request, Exception):
            value = _json(str(request))
        else:
            every = {**self._options, **request}
            value = _json({name: each for name, each in every.items() if not _changes_nothing(name, each)})
        return hashlib.sha256(f"{self._engine}\n{value}".encode()).hexdigest()[:_DIGITS]


def _changes_nothing(name: str, value: object) -> bool:
    return value is None or name in _WITHOUT_EFFECT or (name in _DEFAULTS and value == _DEFAULTS[name])


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
