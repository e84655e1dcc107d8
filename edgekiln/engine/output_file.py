"""Write a file that a user named: atomically, through symbolic links, and never over a file of an engine."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.engine.listed_files import is_engine_name, is_listed, read_leniently
from edgekiln.engine.temporary import temporary_file
from edgekiln.errors import RequestError, is_disk_full


def check_output_file(path: Path, engines: Iterable[Path] = ()) -> Path:
    """Check that a file can be written at `path` without damage to an engine.

    Args:
        path: as the user named it.
        engines: engine directories whose files are refused under other names, too, as hard links have.

    Returns:
        The path without symbolic links.

    Raises:
        RequestError: `path` is a directory, or a file of an engine.
    """
    real = Path(os.path.realpath(path))
    if os.path.isdir(real):
        raise RequestError(f"cannot write {path}: Is a directory, give the name of a file")
    for engine in (real.parent, *engines):
        if _is_of_engine(real, engine):
            raise RequestError(f"{path} is a file of the engine {engine}: give another file")
    return real


def _is_of_engine(path: Path, engine: Path) -> bool:
    """Whether a path without links is a file of an engine, or has a name in its directory that builds give."""
    if not os.path.isfile(engine / ENGINE_FILE):
        return False
    manifest = read_leniently(engine)
    if path.parent == engine.resolve() and (is_listed(path.name, manifest) or is_engine_name(path.name)):
        return True
    return os.path.exists(path) and any(
        os.path.samefile(path, file) for file in engine.iterdir() if is_listed(file.name, manifest)
    )


def write_output_file(path: Path, text: str, engines: Iterable[Path] = ()) -> None:
    """Write a UTF-8 file atomically; devices and pipes are written as they are.

    Args:
        path: as the user named it. Where it is a symbolic link, the file that it points to is written.
        text: the contents.
        engines: as for `check_output_file`.

    Raises:
        RequestError: as for `check_output_file`, or the file cannot be written.
    """
    real = check_output_file(path, engines)
    data = text.encode("utf-8", errors="replace")
    try:
        mode = os.stat(real).st_mode if os.path.lexists(real) else stat.S_IFREG | 0o644
        if not stat.S_ISREG(mode):
            real.write_bytes(data)
            return
        with temporary_file(real) as temporary:
            temporary.write_bytes(data)
            temporary.chmod(stat.S_IMODE(mode))
            temporary.replace(real)
    except OSError as error:
        reason = "no space left on the disk" if is_disk_full(error) else os.strerror(error.errno or 0)
        raise RequestError(f"cannot write {path}: {reason}, give another file") from error
