"""Whether the engine at a build's output may be replaced: it is of the same model, and holds nothing of the user."""

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgekiln.engine.directory import ENGINE_FILE, is_engine
from edgekiln.errors import EngineError

# Files that builds write, where engine.json does not list them.
_FILES = ("*.json", "*.onnx", "*.plan", "weights.bin", "chat_template*.jinja")
_IGNORED = (ENGINE_FILE, ".DS_Store")


def may_replace(output: Path, directory: Path, model_id: str, force: bool) -> bool:
    """Whether `directory` is an engine that a build of a model may replace. False if it is no engine.

    Args:
        output: the directory as the user named it, for messages.
        directory: the directory.
        model_id: model argument of the build.
        force: an engine of another model may be replaced.

    Raises:
        EngineError: the directory has files that are not an engine's, or it is an engine of another model and not
            `force`.
    """
    if not is_engine(directory):
        return False
    manifest = _read(directory / ENGINE_FILE)
    listed = manifest.get("files")
    for path in sorted(directory.iterdir()):
        known = path.name in (*_IGNORED, *listed) if isinstance(listed, dict) else _is_written(path.name)
        if not known or (path.is_dir() and not path.is_symlink()):
            raise EngineError(
                f"{output} has {path.name}, which is no file of an engine: move it away or choose another output "
                "with -o"
            )
    source = manifest.get("source")
    if force or (isinstance(source, str) and _same_model(source, model_id)):
        return True
    of = f"an engine of {source}" if isinstance(source, str) else f"an engine whose {ENGINE_FILE} cannot be read"
    raise EngineError(f"{output} is {of}: choose another output with -o, or replace it with --force")


def _is_written(name: str) -> bool:
    return name in _IGNORED or any(fnmatchcase(name, pattern) for pattern in _FILES)


def _read(path: Path) -> dict[str, Any]:
    """engine.json as far as it can be read: engines of all versions and damaged ones are replaced."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _same_model(one: str, other: str) -> bool:
    """Whether two model arguments name one model: one text, one path, or one repository in any revision."""
    paths = [os.path.realpath(os.path.expanduser(each)) for each in (one, other)]
    if any(os.path.exists(path) for path in paths):
        return paths[0] == paths[1]
    return one.partition("@")[0] == other.partition("@")[0]
