"""Temporary directories and files that are locked while they are in use.

A process that ends by SIGKILL leaves them behind, but its locks end with it: the next process that makes a temporary
path of the same name removes those that nobody holds. The lock is flock(2); where a system or a file system has none,
nothing is removed.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from edgekiln.errors import EngineError, is_disk_full

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MARK = "edgekiln-tmp-"
_RANDOM = "[a-z0-9_]{8}"  # as tempfile.mkdtemp and mkstemp write it
_LONGEST_NAME = 200  # bytes; a file name may have 255
REPLACED = ".old"


@contextlib.contextmanager
def temporary_directory(beside: Path) -> Iterator[Path]:
    """Yield a new, locked directory in the parent of `beside`, which is removed afterwards if it is still there.

    Directories that killed processes left for the same path are removed first.

    Args:
        beside: the path that the directory is to become. Its parent exists.

    Raises:
        OSError: the parent cannot be written.
    """
    prefix = _prefix(beside.name)
    _sweep(beside.parent, prefix, keep_replaced=not os.path.lexists(beside))
    with _directory(beside.parent, prefix) as directory:
        yield directory


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield a new, locked directory of the system's temporary directory, which is removed afterwards.

    Scratch directories that killed processes of this user left are removed first.

    Raises:
        EngineError: the temporary directory cannot be written.
    """
    parent = Path(tempfile.gettempdir())
    try:
        _sweep(parent, _MARK)
        with _directory(parent, _MARK) as directory:
            try:
                yield directory
            except Exception as error:
                rename_in_message(error, directory, "TMPDIR")
                raise
    except OSError as error:
        if is_disk_full(error) or (error.filename and os.fsdecode(error.filename).startswith(f"{parent}/{_MARK}")):
            raise EngineError(
                f"cannot write temporary files in {parent}: {error.strerror}, set TMPDIR to another directory"
            ) from error
        raise


@contextlib.contextmanager
def temporary_file(beside: Path) -> Iterator[Path]:
    """Yield a new, empty, locked file in the parent of `beside`, which is removed afterwards if it is still there.

    Files that killed processes left for the same path are removed first.

    Raises:
        OSError: the parent cannot be written.
    """
    prefix = _prefix(beside.name)
    _sweep(beside.parent, prefix)
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, dir=beside.parent)
        path = Path(name)
        try:
            if fcntl is None or _locked(handle, path):
                yield path
                return
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)


def rename_in_message(error: Exception, path: Path, name: str) -> None:
    """Put `name` in place of a temporary path in the message of an error."""
    error.args = tuple(part.replace(str(path), name) if isinstance(part, str) else part for part in error.args)


def remove_directory(directory: Path) -> None:
    """Remove a directory as far as that is possible, also if its owner may not write it."""
    with contextlib.suppress(OSError):
        directory.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on a directory, where the file system has locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _prefix(name: str) -> str:
    """The start of the temporary names for a path of this name; short enough to be a file name itself."""
    encoded = os.fsencode(name)
    return f".{name if len(encoded) <= _LONGEST_NAME else sha256(encoded).hexdigest()}.{_MARK}"


@contextlib.contextmanager
def _directory(parent: Path, prefix: str) -> Iterator[Path]:
    path, handle = _new_directory(parent, prefix)
    try:
        yield path
    finally:
        remove_directory(path)
        if handle is not None:
            os.close(handle)


def _new_directory(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """A new directory, and the descriptor that holds its lock until it is closed."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if fcntl is None:
            return path, None
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process took it for a leftover
        if _locked(handle, path):
            return path, handle
        os.close(handle)


def _locked(handle: int, path: Path) -> bool:
    """Lock a new path. False if another process took it for a leftover before it was locked, and removed it."""
    with contextlib.suppress(OSError):  # a file system without locks, where nothing is removed
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _sweep(parent: Path, prefix: str, keep_replaced: bool = False) -> None:
    """Remove this user's temporary paths in `parent` that begin with `prefix` and that no process has locked.

    Args:
        parent: the directory to look in.
        prefix: as `_prefix` gives it.
        keep_replaced: leave replaced directories, because what replaces them is not there.
    """
    if fcntl is None:
        return
    pattern = re.compile(re.escape(prefix) + _RANDOM + f"({re.escape(REPLACED)})?")
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            match = pattern.fullmatch(name)
            if match and not (match[1] and keep_replaced):
                with contextlib.suppress(OSError):
                    _remove_unused(parent / name)


def _remove_unused(path: Path) -> None:
    status = os.lstat(path)
    if status.st_uid != os.geteuid() or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a process uses it
        if stat.S_ISDIR(status.st_mode):
            remove_directory(path)
        else:
            path.unlink()
    finally:
        os.close(handle)
