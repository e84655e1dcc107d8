"""Which files of a directory belong to its engine, also where engine.json is damaged or of another version."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgekiln.engine.directory import ENGINE_FILE

# Names that builds give their files.
_NAMES = (ENGINE_FILE, "*.json", "*.onnx", "*.plan", "weights.bin", "chat_template*.jinja")


def read_leniently(engine: Path) -> dict[str, Any]:
    """The object in engine.json, unchecked; empty where there is none."""
    try:
        value = json.loads((engine / ENGINE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def is_listed(name: str, manifest: dict[str, Any]) -> bool:
    """Whether engine.json lists a file; where it has no list, whether the name is one that builds give."""
    files = manifest.get("files")
    return name in (ENGINE_FILE, *files) if isinstance(files, dict) else is_engine_name(name)


def is_engine_name(name: str) -> bool:
    """Whether builds give this name to a file."""
    return any(fnmatchcase(name, pattern) for pattern in _NAMES)
