"""One weights file for all graphs of an engine.

Tensors are written one at a time, each aligned for memory mapping; equal bytes are stored once, so that a tied
embedding and head, or the prefill and decode graph of one engine, share them.
"""

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

# ONNX Runtime maps external data only at page offsets; smaller tensors stay in the graph file.
_PAGE = 4096
_INLINE_BYTES = 1024


class WeightsFile:
    """Writes initializers' values to `directory/name`, for the graphs handed to `store`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._name = name
        self._directory = directory
        self._file = (directory / name).open("wb")
        self._at: dict[tuple[int, bytes], int] = {}

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def store(self, model: ir.Model) -> None:
        """Move every initializer over 1 KB to the file, in place; small ones are made plain tensors."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None, f"{value.name} has no values"
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == self._name:
                continue
            # Not ascontiguousarray, which would make a scalar index a vector.
            array = np.asarray(tensor.numpy(), order="C")
            held = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
            if held.nbytes <= _INLINE_BYTES:
                value.const_value = held
                continue
            # Types of less than a byte are packed in a file, and not in memory.
            data = array.reshape(-1).view(np.uint8) if held.nbytes == array.nbytes else _bytes(held)
            value.const_value = ir.ExternalTensor(
                self._name,
                self._write(data),
                data.nbytes,
                tensor.dtype,
                shape=ir.Shape(array.shape),
                name=value.name or "",
                base_dir=self._directory,
            )

    def _write(self, array: npt.NDArray[np.uint8]) -> int:
        data = array.data
        key = (array.nbytes, hashlib.blake2b(data, digest_size=16).digest())
        if key not in self._at:
            end = self._file.tell()
            offset = -(-end // _PAGE) * _PAGE
            self._file.write(bytes(offset - end))
            self._file.write(data)
            self._at[key] = offset
        return self._at[key]


def _bytes(tensor: ir.Tensor) -> npt.NDArray[np.uint8]:
    return np.frombuffer(tensor.tobytes(), dtype=np.uint8)


def save_graph(model: ir.Model, path: Path) -> None:
    """Write the graph; its large initializers must stand in a weights file beside `path` already."""
    onnx.save(ir.to_proto(model), str(path))
