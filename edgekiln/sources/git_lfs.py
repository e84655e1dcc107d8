"""Recognizing Git LFS pointers: what `git clone` leaves in place of a large file without git-lfs."""

from pathlib import Path

from edgekiln.errors import SourceError

_START = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path) -> None:
    """Refuse a file that is a Git LFS pointer.

    Raises:
        SourceError: it is; the message says how to download the file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_START)) == _START:
            raise SourceError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory")
