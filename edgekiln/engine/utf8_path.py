"""Paths for libraries that take UTF-8 text only, although a path on Linux is any bytes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgekiln.errors import EngineError

_DESCRIPTORS = Path("/proc/self/fd")


def is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """Yield a UTF-8 name of a file or directory, which is valid in the block.

    Where the path is not UTF-8, the name goes through a descriptor of the directory that it is in.

    Args:
        path: a path whose last part is UTF-8, as the names of an engine's files are.

    Raises:
        EngineError: the path is not UTF-8, and this system has no /proc.
        OSError: its directory cannot be opened.
    """
    if is_utf8(path):
        yield str(path)
        return
    if not _DESCRIPTORS.is_dir() or not is_utf8(Path(path.name)):
        raise EngineError(f"the path {path} is not UTF-8, which this system cannot open: rename the directory")
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"{_DESCRIPTORS}/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
