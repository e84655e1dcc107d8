"""Recognizing Git LFS pointers: what `git clone` leaves in place of a large file without git-lfs."""

from pathlib import Path

from edgekiln.errors import SourceError

POINTER_START = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path, start: bytes) -> None:
    """Refuse a file whose content begins with `start` if that is a Git LFS pointer.

    Raises:
        SourceError: it is; the message says how to download the file.
    """
    if start.startswith(POINTER_START):
        raise SourceError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory")
