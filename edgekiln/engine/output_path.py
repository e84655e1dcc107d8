"""The path that a user gave as an output directory: what it names, and whether it can be written."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edgekiln.errors import EngineError

_MOUNTS = Path("/proc/self/mountinfo")
_MOUNT_POINT = 4  # field of a line of mountinfo


def output_path(output: Path) -> Path:
    """The path that `output` names, absolute and without symbolic links.

    A link stays as it is, and the directory that it points to is written. The caller checks that it is a directory.

    Args:
        output: as the user gave it.

    Raises:
        EngineError: nothing can be written there, or a directory there cannot be replaced.
    """
    _check_parents(output)
    try:
        path = Path(os.path.realpath(output))
    except OSError as error:
        raise EngineError(f"{output} is in a directory that was removed: choose another output with -o") from error
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if os.path.islink(output):
            raise EngineError(
                f"{output} is a link to {path}, which does not exist: make that directory or choose another output "
                "with -o"
            ) from None
        return path
    except OSError as error:
        raise EngineError(
            f"cannot write {output}: {os.strerror(error.errno or 0)}, choose another output with -o"
        ) from error
    if stat.S_ISLNK(found.st_mode):  # realpath does not resolve a link to itself
        raise EngineError(f"{output} is a link to itself: choose another output with -o")
    if not stat.S_ISDIR(found.st_mode):
        return path
    _check_replaceable(output, path, found)
    return path


def check_inputs(output: Path, path: Path, reads: Iterable[Path]) -> None:
    """Check that replacing a directory does not delete what is read.

    Args:
        output: the directory as the user gave it.
        path: the same as `output_path` returned it.
        reads: paths of the inputs.

    Raises:
        EngineError: an input is the directory, or is in it.
    """
    for read in reads:
        if (real := Path(os.path.realpath(read))).exists() and (real == path or path in real.parents):
            what = "the model itself" if real == path else f"where {read} is"
            raise EngineError(f"{output} is {what}, and would be replaced: choose another output with -o")


def _check_parents(output: Path) -> None:
    """Check that every `..` is in a directory: realpath also removes `missing/..`, which the system cannot open."""
    for i, part in enumerate(output.parts):
        before = Path(*output.parts[:i])
        if part == os.pardir and not os.path.isdir(before):
            raise EngineError(f"{output} goes through {before}, which is no directory: choose another output with -o")


def _check_replaceable(output: Path, path: Path, found: os.stat_result) -> None:
    """Check what would otherwise fail when the directory is renamed, after minutes."""
    if _holds_current_directory(path):
        raise EngineError(
            f"{output} is the current directory or a parent of it, which cannot be replaced: choose a directory in it "
            f"with -o, such as {output / 'engine'}"
        )
    if _is_mount_point(path):
        raise EngineError(
            f"{output} is a mount point, which cannot be replaced: choose a directory in it with -o, such as "
            f"{output / 'engine'}"
        )
    if not hasattr(os, "geteuid"):
        return
    parent = path.parent.stat()
    if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, parent.st_uid, found.st_uid):
        raise EngineError(
            f"cannot write {output}: {os.strerror(errno.EPERM)}, it belongs to another user; choose another output "
            "with -o"
        )


def _holds_current_directory(path: Path) -> bool:
    try:
        here = Path(os.path.realpath(os.getcwd()))
    except OSError:  # it was removed
        return False
    return path == here or path in here.parents


def _is_mount_point(path: Path) -> bool:
    """Whether a file system is mounted at a path; also one of the same device, which os.path.ismount does not see."""
    if os.path.ismount(path):
        return True
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    # Spaces and newlines in a path are escaped as octal numbers.
    escaped = os.fsencode(path)
    for character in b"\\ \t\n":
        escaped = escaped.replace(bytes([character]), f"\\{character:03o}".encode())
    return any(line.split(b" ")[_MOUNT_POINT] == escaped for line in lines)
