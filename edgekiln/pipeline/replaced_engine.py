"""Whether the engine at a build's output may be replaced: it is of the same model, and holds nothing of the user."""

import os
from pathlib import Path

from edgekiln.engine.directory import ENGINE_FILE, is_engine
from edgekiln.engine.listed_files import is_listed, read_leniently
from edgekiln.engine.packed_directory import is_packed_directory
from edgekiln.errors import EngineError

_DESKTOP_FILES = (".DS_Store",)


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
    manifest = read_leniently(directory)
    for path in sorted(directory.iterdir()):
        if is_packed_directory(path):
            continue
        known = path.name in _DESKTOP_FILES or is_listed(path.name, manifest)
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


def _same_model(one: str, other: str) -> bool:
    """Whether two model arguments name one model: one text, one path, or one repository in any revision."""
    paths = [os.path.realpath(os.path.expanduser(each)) for each in (one, other)]
    if any(os.path.exists(path) for path in paths):
        return paths[0] == paths[1]
    return one.partition("@")[0] == other.partition("@")[0]
