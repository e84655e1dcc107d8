"""Which files of a directory belong to its engine, also where engine.json is damaged or of another version."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.engine.packed_directory import is_packed_directory

_DESKTOP_FILES = (".DS_Store",)
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


def foreign_file(engine: Path) -> str | None:
    """Name of the first file or directory in an engine directory that neither a build nor a run of the engine wrote."""
    manifest = read_leniently(engine)
    for path in sorted(engine.iterdir()):
        if is_packed_directory(path):
            continue
        known = path.name in _DESKTOP_FILES or is_listed(path.name, manifest)
        if not known or (path.is_dir() and not path.is_symlink()):
            return path.name
    return None
