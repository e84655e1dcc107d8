"""Whether the engine at a build's output may be replaced: it is of the same model, and holds nothing of the user."""

import os
from pathlib import Path

from edgekiln.engine.directory import ENGINE_FILE, is_engine
from edgekiln.engine.listed_files import foreign_file, read_leniently
from edgekiln.errors import EngineError


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
    if (foreign := foreign_file(directory)) is not None:
        raise EngineError(
            f"{output} has {foreign}, which is no file of an engine: move it away or choose another output with -o"
        )
    manifest = read_leniently(directory)
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
