"""Write the weights of all graphs of an engine to one file.

Tensors are written one at a time, page-aligned for memory mapping. Equal bytes are stored once, so that a tied
embedding and LM head, or several graphs of an engine, share them.
"""

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

# ONNX Runtime memory-maps external data at page offsets only. Smaller tensors stay in the graph file.
_PAGE = 4096
_INLINE_BYTES = 1024
_STACK_TRACE = "pkg.torch.onnx.stack_trace"  # metadata of the nodes that torch.onnx exports


class WeightsFile:
    """Writes the initializers of graphs to the file `directory/name`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._name = name
        self._directory = directory
        self._file = (directory / name).open("wb")
        self._offsets: dict[tuple[int, bytes], int] = {}

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def store(self, model: ir.Model) -> None:
        """Move every initializer of more than 1 KB to the file, in place; smaller ones become plain tensors."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                raise ValueError(f"{value.name} has no values")
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == self._name:
                continue
            # Not ascontiguousarray, which turns a scalar into a vector.
            array = np.asarray(tensor.numpy(), order="C")
            held = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
            if held.nbytes <= _INLINE_BYTES:
                value.const_value = held
                continue
            # Types smaller than a byte are packed in the file only.
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
        if key not in self._offsets:
            end = self._file.tell()
            offset = -(-end // _PAGE) * _PAGE
            self._file.write(bytes(offset - end))
            self._file.write(data)
            self._offsets[key] = offset
        return self._offsets[key]


def _bytes(tensor: ir.Tensor) -> npt.NDArray[np.uint8]:
    return np.frombuffer(tensor.tobytes(), dtype=np.uint8)


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph whose large initializers are in a weights file beside `path` already.

    Stack traces of the tracing, which name paths of this machine, are left out.
    """
    proto = ir.to_proto(model)
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        kept = [entry for entry in node.metadata_props if entry.key != _STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(proto, str(path))
