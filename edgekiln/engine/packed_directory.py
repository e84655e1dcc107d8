"""The directory `packed-weights` of an engine, which running the engine writes, and which may be deleted at any time.

It holds packed weights (cpp/kernels/pack/pack_cache.h), and in the file `verified` the state of the large files whose
SHA-256 was found right: a file that was not written since is not hashed again. Both are caches; engine.json lists
neither. cpp/src/engine/packed_directory.cpp reads and writes the same.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekiln.engine.temporary import temporary_file

PACKED_DIRECTORY = "packed-weights"
VERIFIED_FILE = "verified"
_SUFFIXES = (".packed", ".packed.edgekiln-tmp")
_SECOND = 10**9
# A write within one tick of the file system's clock, after the state was read, does not change it.
_TICK = 0.1
_COARSE_TICK = 2.0


@dataclass(frozen=True)
class FileState:
    """What changes when a file is written: size in bytes, inode, times in ns since 1970."""

    size: int
    inode: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """The state of a file now; raises OSError."""
        found = os.stat(path)
        return cls(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)

    def is_settled(self, now: float) -> bool:
        """Whether every write after `now`, in seconds since 1970, gives the file another state."""
        return now - self.changed / _SECOND > (_TICK if self.changed % _SECOND else _COARSE_TICK)


def is_packed_directory(path: Path) -> bool:
    """Whether a path is the directory that running an engine writes, with nothing else in it."""
    if path.name != PACKED_DIRECTORY or path.is_symlink() or not path.is_dir():
        return False
    return all(
        (name == VERIFIED_FILE or name.endswith(_SUFFIXES) or name.startswith(f".{VERIFIED_FILE}."))
        for name in os.listdir(path)
    )


def is_verified(directory: Path, name: str, sha256: str) -> bool:
    """Whether the record says that a file had this SHA-256, and the file has not been written since.

    Args:
        directory: of the engine.
        name: of the file.
        sha256: in hexadecimal.
    """
    record = directory / PACKED_DIRECTORY / VERIFIED_FILE
    try:
        found, owner = os.lstat(record), os.stat(directory / name).st_uid
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0, owner):
            return False
        return _line(name, sha256, FileState.of(directory / name)) in record.read_bytes().splitlines()
    except OSError:
        return False


def record_verified(directory: Path, sha256: Mapping[str, str], states: Mapping[str, FileState]) -> None:
    """Record that files have the SHA-256 of engine.json, where the engine has packed weights; never fails.

    Args:
        directory: of the engine.
        sha256: by file name, in hexadecimal.
        states: of the files, from before they were hashed.
    """
    parent = directory / PACKED_DIRECTORY
    try:
        lines = [
            _line(name, sha256[name], state)
            for name, state in states.items()
            if FileState.of(directory / name) == state
        ]
        if lines and parent.is_dir():
            with temporary_file(parent / VERIFIED_FILE) as file:
                file.write_bytes(b"".join(line + b"\n" for line in lines))
                file.chmod(0o644)
                file.replace(parent / VERIFIED_FILE)
    except OSError:
        pass  # the directory is read-only, or the disk is full


def _line(name: str, sha256: str, state: FileState) -> bytes:
    return os.fsencode(f"{sha256} {state.size} {state.inode} {state.modified} {state.changed} {name}")
