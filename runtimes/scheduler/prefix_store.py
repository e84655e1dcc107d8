"""Beginnings of prompts on disk, so that a system prompt is computed once, also across starts of a server.

A file has the tokens, keys, values and states of a prefix that several prompts had, and is named by the hash of engine
and tokens. Files may be deleted at any time; what is damaged, or of another engine, is not used.
"""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids
from edgekiln.runtimes.saved_sequence import SavedSequence, read_header, read_sequence, write_sequence
from edgekiln.runtimes.scheduler.prefix import Classes, PrefixRules, common_prefix

SUFFIX: Final = ".sequence"
# A prefix is kept from so many tokens on, and if so many more than those of a file can be taken over.
LEAST: Final = 32


@dataclass(frozen=True)
class _Entry:
    path: Path
    tokens: Ids
    classes: Classes


class PrefixStore:
    """The prefixes of one engine in a directory, which several servers may share. Of one thread."""

    def __init__(self, directory: Path, key: str, limit: int) -> None:
        """Read what the directory has.

        Args:
            directory: it is made if it does not exist.
            key: of the engine and its kernels.
            limit: bytes of all files; those that were used least recently are deleted.

        Raises:
            RequestError: the directory cannot be made.
        """
        self._directory, self._key, self._limit = directory, key, limit
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot make the directory {directory}: {error.strerror}") from error
        self._entries: list[_Entry] = []
        self._writer: threading.Thread | None = None
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            try:
                header = read_header(path)
                if header["key"] == key:
                    classes = np.array(header["notes"]["classes"], np.int8)
                    self._entries.append(_Entry(path, np.array(header["tokens"], np.int64), classes))
            except (RequestError, KeyError, ValueError):
                continue

    def best(self, prompt: Ids, rules: PrefixRules) -> tuple[int, int]:
        """Index of the prefix that a prompt can take most of over, and how many tokens; (-1, 0) if there is none."""
        counts = [
            rules.reusable(common_prefix(entry.tokens, prompt), entry.classes, prompt.size) for entry in self._entries
        ]
        best = max(range(len(counts)), key=counts.__getitem__, default=-1)
        return (best, counts[best]) if best >= 0 and counts[best] > 0 else (-1, 0)

    def load(self, index: int) -> tuple[SavedSequence, Classes] | None:
        """A prefix by its index; None, and it is forgotten, if its file is gone or damaged."""
        entry = self._entries[index]
        try:
            saved, _ = read_sequence(entry.path, self._key)
            entry.path.touch()
        except (RequestError, OSError):
            del self._entries[index]
            return None
        return saved, entry.classes

    def add(self, saved: SavedSequence, classes: Classes) -> None:
        """Write a prefix, in a thread of its own; left out while another one is written."""
        if self._writer is not None and self._writer.is_alive():
            return
        if saved.nbytes > self._limit:
            return
        name = hashlib.sha256(self._key.encode() + saved.tokens.tobytes()).hexdigest()[:32]
        entry = _Entry(self._directory / (name + SUFFIX), saved.tokens, classes)
        self._entries.append(entry)
        self._writer = threading.Thread(target=self._write, args=(entry, saved), name="prefix-store", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Wait until what is being written is on disk."""
        if self._writer is not None:
            self._writer.join()

    def _write(self, entry: _Entry, saved: SavedSequence) -> None:
        try:
            self._make_room(saved.nbytes)
            write_sequence(entry.path, self._key, saved, {"classes": entry.classes.tolist()})
        except (RequestError, OSError):
            return  # `load` finds no file, and forgets it

    def _make_room(self, size: int) -> None:
        """Delete the files that were used least recently until `size` more bytes fit."""
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._directory.glob(f"*{SUFFIX}")]
        total = sum(nbytes for _, nbytes, _ in files)
        for _, nbytes, path in sorted(files):
            if total + size <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= nbytes
