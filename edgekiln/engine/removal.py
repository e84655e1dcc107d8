"""Remove an engine directory, and nothing else."""

import os
from pathlib import Path

from edgekiln.engine.directory import is_engine
from edgekiln.engine.listed_files import foreign_file
from edgekiln.engine.temporary import temporary_directory
from edgekiln.errors import EngineError


def check_removable(engine: Path) -> None:
    """Check that a path is an engine directory that holds nothing else.

    Raises:
        EngineError: it is no engine directory, is a link to one, or holds files of the user.
    """
    if not is_engine(engine):
        raise EngineError(f"{engine} is not an engine directory: `edgekiln list` shows those in engines")
    if engine.is_symlink():
        raise EngineError(f"{engine} is a link to {os.path.realpath(engine)}: give that directory, or remove the link")
    if (foreign := foreign_file(engine)) is not None:
        raise EngineError(f"{engine} has {foreign}, which is no file of an engine: move it away first")


def remove_engine(engine: Path) -> None:
    """Remove an engine directory with its packed weights, in one step for readers.

    Raises:
        EngineError: as `check_removable`.
        OSError: it may not be removed.
    """
    check_removable(engine)
    path = Path(os.path.abspath(engine))
    # What a killed process leaves here, the next build or removal of the same engine removes.
    with temporary_directory(path) as temporary:
        os.rename(path, temporary / path.name)
