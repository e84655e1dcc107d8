"""The first CUDA device, through NVIDIA's own bindings of the CUDA runtime (package cuda-bindings)."""

import ctypes
import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.cuda.device import Array, Buffer, Pinned

_MB = 10**6


class CudaDevice:
    """See `edgekiln.runtimes.cuda.device.Device`."""

    def __init__(self, runtime: Any) -> None:
        """Take the device.

        Args:
            runtime: the module `cuda.bindings.runtime`; `open_device` gives it.

        Raises:
            EdgekilnError: there is no driver, or no GPU.
        """
        self._cuda = runtime
        try:
            count = self._call(runtime.cudaGetDeviceCount())
        except EdgekilnError as error:
            raise EdgekilnError(f"running this engine needs an NVIDIA GPU and its driver: {error}") from error
        if not count:
            raise EdgekilnError("running this engine needs an NVIDIA GPU: the driver shows none, check nvidia-smi")
        attribute = runtime.cudaDeviceAttr
        major, minor = (
            self._call(runtime.cudaDeviceGetAttribute(what, 0))
            for what in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
        )
        self.compute_capability = f"{major}.{minor}"
        # A stream that does not wait for the default one, which a capture could not.
        self._stream = self._call(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self.stream = int(self._stream)
        # What another thread queues while one records would be recorded, and not done.
        self._queueing = threading.RLock()

    def allocate(self, size: int, what: str) -> Buffer:
        """`size` bytes of device memory."""
        error, address = self._cuda.cudaMalloc(size)
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            free, total = self._call(self._cuda.cudaMemGetInfo())
            raise EdgekilnError(
                f"the GPU has {free // _MB} of {total // _MB} MB free, {what} needs {math.ceil(size / _MB)} MB more: "
                "use a smaller batch, or build with a lower --max-length"
            )
        self._call((error,))
        buffer = Buffer(int(address), size)
        self._free_with(buffer, self._cuda.cudaFree, int(address))
        return buffer

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Pinned:
        """A host array of page-locked memory."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        address = int(self._call(self._cuda.cudaMallocHost(size)))
        raw = memoryview((ctypes.c_byte * size).from_address(address)).cast("B")
        pinned = Pinned(np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape))
        self._free_with(pinned, self._cuda.cudaFreeHost, address)
        return pinned

    def zero(self, buffer: Buffer) -> None:
        """Queue: all bytes become 0."""
        with self._queueing:
            self._call(self._cuda.cudaMemsetAsync(buffer.address, 0, buffer.size, self._stream))

    def copy_in(self, address: int, array: Array) -> None:
        """Queue a copy to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        with self._queueing:
            self._call(self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self._stream))

    def copy_out(self, array: Array, address: int) -> None:
        """Queue a copy from the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        with self._queueing:
            self._call(self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self._stream))

    def copy_rows(self, target: tuple[int, int], source: tuple[int, int], width: int, count: int) -> None:
        """Queue a copy of `count` pieces within the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        with self._queueing:
            self._call(self._cuda.cudaMemcpy2DAsync(*target, *source, width, count, kind, self._stream))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of what `work` queues; the call launches it."""
        cuda, stream = self._cuda, self._stream
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with self._queueing:
            self._call(cuda.cudaStreamBeginCapture(stream, mode))
            try:
                work()
            except BaseException:
                cuda.cudaStreamEndCapture(stream)
                raise
            graph = self._call(cuda.cudaStreamEndCapture(stream))
        executable = self._call(cuda.cudaGraphInstantiate(graph, 0))
        self._call(cuda.cudaGraphDestroy(graph))

        def replay() -> None:
            with self._queueing:
                self._call(cuda.cudaGraphLaunch(executable, stream))

        self._free_with(replay, cuda.cudaGraphExecDestroy, executable)
        return replay

    def synchronize(self) -> None:
        """Wait for the stream."""
        with self._queueing:
            self._call(self._cuda.cudaStreamSynchronize(self._stream))

    def _call(self, result: tuple[Any, ...]) -> Any:
        """What a call gave, without the error that it did not have."""
        error, *values = result
        if error != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(error)
            raise EdgekilnError(f"CUDA says {text.decode(errors='replace')} ({error.name})")
        return values[0] if len(values) == 1 else tuple(values)

    @staticmethod
    def _free_with(owner: Any, free: Callable[[Any], Any], resource: Any) -> None:
        # At exit the driver frees all; by then its library may be gone.
        weakref.finalize(owner, free, resource).atexit = False


def open_device(extra: str) -> CudaDevice:
    """The first GPU.

    Args:
        extra: of edgekiln, that installs what is missing.

    Raises:
        EdgekilnError: there is no driver or no GPU, or the bindings are not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EdgekilnError(
            f"running on a GPU needs the module cuda.bindings: pip install 'edgekiln[{extra}]'"
        ) from error
    return CudaDevice(runtime)
