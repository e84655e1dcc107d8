"""The first CUDA device, through NVIDIA's Python bindings of the CUDA runtime (package cuda-bindings)."""

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
    """A GPU and a stream; see `edgekiln.runtimes.cuda.device.Device`."""

    def __init__(self, runtime: Any) -> None:
        """Open the first device.

        Args:
            runtime: the module `cuda.bindings.runtime`, which `open_device` imports.

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
        # Non-blocking: a stream that synchronizes with the default stream cannot be captured.
        self._stream = self._call(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self.stream = int(self._stream)
        # Held during a capture: operations that another thread queues meanwhile would be captured instead of run.
        self._queue_lock = threading.RLock()

    def allocate(self, size: int, what: str) -> Buffer:
        """Allocate uninitialized device memory."""
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
        """Allocate an uninitialized host array in page-locked memory."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        address = int(self._call(self._cuda.cudaMallocHost(size)))
        raw = memoryview((ctypes.c_byte * size).from_address(address)).cast("B")
        pinned = Pinned(np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape))
        self._free_with(pinned, self._cuda.cudaFreeHost, address)
        return pinned

    def zero(self, buffer: Buffer) -> None:
        """Queue: set all bytes of the buffer to 0."""
        with self._queue_lock:
            self._call(self._cuda.cudaMemsetAsync(buffer.address, 0, buffer.size, self._stream))

    def copy_in(self, address: int, array: Array) -> None:
        """Queue: copy a host array to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        with self._queue_lock:
            self._call(self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self._stream))

    def copy_out(self, array: Array, address: int) -> None:
        """Queue: copy from the device into a host array."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        with self._queue_lock:
            self._call(self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self._stream))

    def copy_2d(self, target: tuple[int, int], source: tuple[int, int], width: int, height: int) -> None:
        """Queue: copy `height` runs of `width` bytes within device memory, between (address, pitch) pairs."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        with self._queue_lock:
            self._call(self._cuda.cudaMemcpy2DAsync(*target, *source, width, height, kind, self._stream))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture what `work` queues as a CUDA graph, and return a function that launches the graph."""
        cuda, stream = self._cuda, self._stream
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with self._queue_lock:
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
            with self._queue_lock:
                self._call(cuda.cudaGraphLaunch(executable, stream))

        self._free_with(replay, cuda.cudaGraphExecDestroy, executable)
        return replay

    def synchronize(self) -> None:
        """Wait until everything queued has run."""
        with self._queue_lock:
            self._call(self._cuda.cudaStreamSynchronize(self._stream))

    def _call(self, result: tuple[Any, ...]) -> Any:
        """Check the status of a CUDA call and return its other results."""
        error, *values = result
        if error != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(error)
            raise EdgekilnError(f"CUDA says {text.decode(errors='replace')} ({error.name})")
        return values[0] if len(values) == 1 else tuple(values)

    @staticmethod
    def _free_with(owner: Any, free: Callable[[Any], Any], resource: Any) -> None:
        # Not at exit: the driver frees everything then, and its library may already be unloaded.
        weakref.finalize(owner, free, resource).atexit = False


def open_device(extra: str) -> CudaDevice:
    """Open the first GPU.

    Args:
        extra: the extra of edgekiln that installs the bindings, for the error message.

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
