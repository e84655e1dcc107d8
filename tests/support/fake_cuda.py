"""A fake of the CUDA runtime's Python bindings in host memory: queued operations run when the stream is synchronized.

Constants and enumerations are those of the real bindings. `test_cuda_device.py` compares every function with the
documented parameters and results of the real one. New memory is filled with 0xFF, which is NaN in all float types, and
accesses outside allocated memory fail.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime

Work = Callable[[], None]
_ALIGNMENT = 256
_SUCCESS = runtime.cudaError_t.cudaSuccess


class FakeCuda:
    """Replaces the module `cuda.bindings.runtime`.

    Attributes:
        capability: compute capability of the GPU.
        memory: bytes of the GPU.
        launches: number of CUDA graph launches.
        streams: handle -> queued operations.
        live: address -> allocated memory.
    """

    def __init__(self, capability: tuple[int, int] = (8, 9), memory: int = 1 << 30, devices: int = 1) -> None:
        self.capability = capability
        self.memory = memory
        self.devices = devices
        self.launches = 0
        self.streams: dict[int, list[Work]] = {}
        self.live: dict[int, np.ndarray] = {}
        self._owners: dict[int, np.ndarray] = {}
        self._capturing: list[Work] | None = None
        self._graphs: dict[int, list[Work]] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(runtime, name)
        if callable(value) and not isinstance(value, type):
            raise AttributeError(f"the fake has no {name}")
        return value

    def queue(self, stream: int, work: Work) -> None:
        """Queue `work` on a stream, or add it to the current capture."""
        (self.streams[int(stream)] if self._capturing is None else self._capturing).append(work)

    def view(self, address: int, size: int) -> np.ndarray:
        """uint8[size], a view of allocated memory."""
        for start, array in self.live.items():
            if start <= address and address + size <= start + array.size:
                return array[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    def cudaGetDeviceCount(self):  # noqa: N802
        return _SUCCESS, self.devices

    def cudaDeviceGetAttribute(self, attr, device):  # noqa: N802
        major = attr == runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        assert major or attr == runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor
        assert device == 0
        return _SUCCESS, self.capability[0 if major else 1]

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        assert flags == runtime.cudaStreamNonBlocking
        handle = 7000 + len(self.streams)
        self.streams[handle] = []
        return _SUCCESS, handle

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        assert self._capturing is None
        queued, self.streams[int(stream)] = self.streams[int(stream)], []
        for work in queued:
            work()
        return (_SUCCESS,)

    def cudaMemGetInfo(self):  # noqa: N802
        return _SUCCESS, self.memory - sum(array.size for array in self.live.values()), self.memory

    def cudaMalloc(self, size):  # noqa: N802
        if size > self.cudaMemGetInfo()[1]:
            return runtime.cudaError_t.cudaErrorMemoryAllocation, None
        owner = np.full(size + _ALIGNMENT, 0xFF, np.uint8)
        offset = -owner.ctypes.data % _ALIGNMENT
        address = owner.ctypes.data + offset
        self._owners[address], self.live[address] = owner, owner[offset : offset + size]
        return _SUCCESS, address

    def cudaFree(self, devPtr):  # noqa: N802, N803
        del self.live[devPtr], self._owners[devPtr]
        return (_SUCCESS,)

    def cudaMallocHost(self, size):  # noqa: N802
        return self.cudaMalloc(size)

    def cudaFreeHost(self, ptr):  # noqa: N802
        return self.cudaFree(ptr)

    def cudaMemsetAsync(self, devPtr, value, count, stream):  # noqa: N802, N803
        self.queue(stream, lambda: self.view(devPtr, count).fill(value))
        return (_SUCCESS,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):  # noqa: N802
        assert kind in (runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        return self.cudaMemcpy2DAsync(dst, count, src, count, count, 1, kind, stream)

    def cudaMemcpy2DAsync(self, dst, dpitch, src, spitch, width, height, kind, stream):  # noqa: N802
        assert width <= min(dpitch, spitch)

        def copy() -> None:
            for row in range(height):
                self.view(dst + row * dpitch, width)[:] = self.view(src + row * spitch, width)

        self.queue(stream, copy)
        return (_SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert mode == runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert self._capturing is None
        self._capturing = []
        return (_SUCCESS,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        assert self._capturing is not None
        graph = len(self._graphs)
        self._graphs[graph], self._capturing = self._capturing, None
        return _SUCCESS, graph

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        assert flags == 0
        return _SUCCESS, self._graphs[graph]

    def cudaGraphDestroy(self, graph):  # noqa: N802
        self._graphs[graph] = []
        return (_SUCCESS,)

    def cudaGraphLaunch(self, graphExec, stream):  # noqa: N802, N803
        self.launches += 1
        for work in graphExec:
            self.queue(stream, work)
        return (_SUCCESS,)

    def cudaGraphExecDestroy(self, graphExec):  # noqa: N802, N803
        graphExec.clear()
        return (_SUCCESS,)

    def cudaGetErrorString(self, error):  # noqa: N802
        return runtime.cudaGetErrorString(error)
