"""A sequence of a KV cache in a file: its tokens, keys, values and states, so that its prompt is not computed again.

Format: the magic line, the size of a JSON header as 8 bytes, the header, and from the next multiple of 64 on the bytes
of the arrays, one after another. All numbers are little-endian.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekiln.engine.temporary import temporary_file
from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids

_MAGIC: Final = b"edgekiln sequence 1\n"
_ALIGNMENT: Final = 64  # bytes
_LONGEST_HEADER: Final = 1 << 28  # bytes


@dataclass(frozen=True)
class SavedSequence:
    """A sequence outside of a KV cache.

    Attributes:
        tokens: int64[S].
        length: tokens that the sequence had when its keys were computed, for engines with `recompute_beyond`.
        arrays: keys, values and states, as the cache that saved them arranges them.
    """

    tokens: Ids
    length: int
    arrays: list[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)


def write_sequence(path: Path, key: str, saved: SavedSequence, notes: Mapping[str, Any]) -> None:
    """Write a file, atomically.

    Args:
        path: of the file.
        key: of the engine and its kernels, see `edgekiln.runtimes.base.Runtime.sequence_key`.
        saved: the sequence.
        notes: what else `read_sequence` returns; JSON.

    Raises:
        RequestError: the file cannot be written.
    """
    digest = hashlib.sha256()
    for array in saved.arrays:
        digest.update(np.ascontiguousarray(array).data)
    header = {
        "key": key,
        "tokens": saved.tokens.tolist(),
        "length": saved.length,
        "arrays": [[array.dtype.str, list(array.shape)] for array in saved.arrays],
        "sha256": digest.hexdigest(),
        "notes": dict(notes),
    }
    text = json.dumps(header).encode()
    try:
        with temporary_file(path) as temporary, temporary.open("wb") as file:
            file.write(_MAGIC + struct.pack("<Q", len(text)) + text)
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            for array in saved.arrays:
                file.write(np.ascontiguousarray(array).data)
            file.flush()
            temporary.replace(path)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file, with `start` and `size` of its arrays.

    Raises:
        RequestError: it cannot be read, or is no file of a sequence.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise RequestError(f"{path} is not a saved sequence of this version of edgekiln: save it again")
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, _LONGEST_HEADER)))
        for dtype, shape in header["arrays"]:
            if np.dtype(dtype).kind not in "fiu" or any(not isinstance(size, int) or size < 0 for size in shape):
                raise ValueError
        start = -(-(len(_MAGIC) + 8 + size) // _ALIGNMENT) * _ALIGNMENT
        sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in header["arrays"]]
        if start + sum(sizes) != path.stat().st_size:
            raise ValueError
        return {**header, "start": start, "size": sum(sizes)}
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(path) from error


def read_sequence(path: Path, key: str) -> tuple[SavedSequence, dict[str, Any]]:
    """Map a file into memory, and check it.

    Returns:
        The sequence, whose arrays are views of the file, and the notes.

    Raises:
        RequestError: it cannot be read, is damaged, or of another engine or other kernels than `key`.
    """
    header = read_header(path)
    if header["key"] != key:
        raise RequestError(f"{path} was saved with another engine or other kernels: save it again with this one")
    try:
        memory = np.memmap(path, np.uint8, "r", header["start"], (header["size"],))
        if hashlib.sha256(memory.data).hexdigest() != header["sha256"]:
            raise _damaged(path)
        arrays, first = [], 0
        for dtype, shape in header["arrays"]:
            size = np.dtype(dtype).itemsize * math.prod(shape)
            arrays.append(memory[first : first + size].view(dtype).reshape(shape))
            first += size
        tokens: Ids = np.array(header["tokens"], dtype=np.int64)
        return SavedSequence(tokens, int(header["length"]), arrays), dict(header["notes"])
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> RequestError:
    return RequestError(f"{path} is damaged: delete it")
