"""Read a GGUF file: metadata, the tensor table, and one tensor at a time from a memory map.

The `gguf` package reads every vocabulary entry through numpy, which takes seconds for a real model. This reader checks
every offset, so that a damaged file is reported as damaged. Dequantization is the `gguf` package's.
"""

import functools
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.gguf.cursor import Cursor, Field
from edgekiln.sources.git_lfs import refuse_pointer

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_MAX_KEY, _MAX_TENSOR_NAME = 255, 63  # the latter is ggml's GGML_MAX_NAME without its final zero
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the tensor table.

    Attributes:
        name: of the tensor.
        shape: row-major, as in torch.
        type: the `gguf.GGMLQuantizationType`.
        start: offset in the file, in bytes.
        nbytes: size in the file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    start: int
    nbytes: int


class GgufFile:
    """A parsed GGUF header over a memory map of the file.

    Attributes:
        path: the file.
        metadata: key -> Field, in file order.
        tensors: name -> TensorInfo, in file order.

    Raises:
        SourceError: not a GGUF file, of an unknown version, truncated or damaged.
        UnsupportedModelError: a tensor has a type that this release of `gguf` does not know or cannot dequantize.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = _map(path)
        cursor = Cursor(self._data, path)
        cursor.position = len(_MAGIC)
        (version,) = cursor.scalars("I")
        if version not in _VERSIONS:
            order = " (or is big-endian)" if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS else ""
            raise SourceError(
                f"{path} has GGUF version {version}{order}, edgekiln reads 2 and 3 (little-endian): convert it again"
            )
        tensor_count, field_count = cursor.scalars("Q", 2)
        self.metadata: dict[str, Field] = {}
        for _ in range(field_count):
            key = cursor.name(_MAX_KEY)
            if key in self.metadata:
                raise SourceError(f"{path} is damaged: it has the metadata key {key!r} twice; download it again")
            self.metadata[key] = cursor.field()
        rows: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensor_count):
            name, shape, kind, offset = _tensor_row(cursor)
            if name in rows:
                raise SourceError(f"{path} is damaged: it has the tensor {name!r} twice; download it again")
            rows[name] = shape, kind, offset
        alignment = self.get("general.alignment", _DEFAULT_ALIGNMENT)
        if (
            isinstance(alignment, bool)
            or not isinstance(alignment, int)
            or alignment < 1
            or alignment & (alignment - 1)
        ):
            raise SourceError(
                f"{path} is damaged: general.alignment is {alignment!r:.60}, it must be a power of two; "
                "download it again"
            )
        base = -(-cursor.position // alignment) * alignment
        self.tensors: dict[str, TensorInfo] = {}
        for name, (shape, kind, offset) in rows.items():
            if offset % alignment:
                raise SourceError(
                    f"{path} is damaged: {name} is at {offset}, no multiple of its alignment {alignment}; "
                    "download it again"
                )
            self.tensors[name] = self._info(name, shape, kind, base + offset)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, or `default`."""
        field = self.metadata.get(key)
        return default if field is None else field.value

    def raw(self, name: str) -> np.ndarray:
        """The bytes of one tensor, a view of the memory map: uint8 [rows, bytes per row]."""
        info = self.tensors[name]
        data = np.frombuffer(self._data, dtype=np.uint8, count=info.nbytes, offset=info.start)
        return data.reshape(math.prod(info.shape[:-1]), -1)

    def raw_expert(self, name: str, index: int) -> np.ndarray:
        """The bytes of one element of the first axis of a tensor of at least two, as `raw`."""
        rows = math.prod(self.tensors[name].shape[1:-1])
        return self.raw(name)[index * rows : (index + 1) * rows]

    def read(self, name: str) -> np.ndarray:
        """Read and dequantize one tensor: a new float32 array of the shape `tensors[name].shape`."""
        return self._dequantized(name, self.raw(name), self.tensors[name].shape)

    def read_expert(self, name: str, index: int) -> np.ndarray:
        """Read and dequantize one element of the first axis of a tensor of at least two, likewise."""
        return self._dequantized(name, self.raw_expert(name, index), self.tensors[name].shape[1:])

    def _dequantized(self, name: str, raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType(self.tensors[name].type)
        if kind == GGMLQuantizationType.F32:
            return raw.view("<f4").reshape(shape).copy()
        if kind == GGMLQuantizationType.F16:
            return raw.view("<f2").reshape(shape).astype(np.float32)
        return dequantize(raw, kind).reshape(shape).astype(np.float32, copy=False)

    def _info(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> TensorInfo:
        try:
            block, size = _block(kind)
        except (ValueError, KeyError):
            raise UnsupportedModelError(
                f"{self.path} stores {name} in ggml type {kind}, which this gguf package does not know: upgrade gguf"
            ) from None
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"{self.path} stores {name} as {error}, which cannot be read as weights: give the model's Hugging Face "
                "directory or another quantization"
            ) from None
        elements = math.prod(shape)
        if shape[-1] % block:
            raise SourceError(
                f"{self.path} is damaged: {name} has rows of {shape[-1]} values, not a multiple of {block}; "
                "download it again"
            )
        nbytes = elements // block * size
        if start + nbytes > len(self._data):
            raise SourceError(
                f"{self.path} is truncated: {name} ends at byte {start + nbytes}, the file at {len(self._data)}; "
                "download it again"
            )
        return TensorInfo(name, shape, kind, start, nbytes)


def _map(path: Path) -> mmap.mmap:
    """Map a file that begins as a GGUF file does."""
    try:
        if not path.is_file():
            raise SourceError(f"{path} is no regular file: give a .gguf file or a model directory")
        refuse_pointer(path)
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise SourceError(
                    f"{path} is not a GGUF file: it does not begin with the letters GGUF; give a .gguf file, or the "
                    "directory of a Hugging Face model"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


@functools.cache
def _block(kind: int) -> tuple[int, int]:
    """Values and bytes of a block of a ggml type.

    Raises:
        ValueError, KeyError: the `gguf` package does not know the type.
        NotImplementedError: the package cannot dequantize it; the message is the type's name.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    known = GGMLQuantizationType(kind)
    block, size = GGML_QUANT_SIZES[known]
    try:
        dequantize(np.zeros((1, size), np.uint8), known)
    except NotImplementedError:
        raise NotImplementedError(known.name) from None
    return block, size


def _tensor_row(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.name(_MAX_TENSOR_NAME)
    (dims,) = cursor.scalars("I")
    if not 1 <= dims <= _MAX_DIMS:
        raise SourceError(f"{cursor.path} is damaged: tensor {name!r} has {dims} dimensions; download it again")
    shape = cursor.scalars("Q", dims)
    (kind,) = cursor.scalars("I")
    (offset,) = cursor.scalars("Q")
    if 0 in shape:
        raise SourceError(f"{cursor.path} is damaged: tensor {name!r} has shape {shape}; download it again")
    # ggml lists the fastest-varying dimension first.
    return name, shape[::-1], kind, offset
