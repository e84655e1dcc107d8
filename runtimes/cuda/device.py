"""The device interface of the TensorRT adapter: memory, copies, one stream, and CUDA graph capture and replay.

Operations marked "Queue" run asynchronously and in order on the stream; `synchronize` waits for them. Addresses are
integers, so that adapters can compute offsets into buffers. The C++ counterpart is runtime/cuda/cuda_device.h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
# Bytes; TensorRT requires this alignment of tensor addresses, and cudaMalloc guarantees it.
ALIGNMENT = 256


@dataclass(frozen=True, eq=False)
class Buffer:
    """Device memory of `size` bytes at `address`; freed when the object is collected."""

    address: int
    size: int


@dataclass(frozen=True, eq=False)
class Pinned:
    """A host array in page-locked memory, which asynchronous copies require; freed when the object is collected."""

    array: Array


class Device(Protocol):
    """One GPU and one stream on it."""

    @property
    def compute_capability(self) -> str:
        """The GPU's compute capability, e.g. "8.9"."""

    @property
    def stream(self) -> int:
        """The stream's handle."""

    def allocate(self, size: int, what: str) -> Buffer:
        """Allocate uninitialized device memory.

        Args:
            size: bytes.
            what: purpose of the memory, for the error message.

        Returns:
            A buffer aligned to `ALIGNMENT`.

        Raises:
            EdgekilnError: not enough memory.
        """

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Pinned:
        """Allocate an uninitialized host array in page-locked memory."""

    def zero(self, buffer: Buffer) -> None:
        """Queue: set all bytes of the buffer to 0."""

    def copy_in(self, address: int, array: Array) -> None:
        """Queue: copy a contiguous host array to the device. It must not change before the copy has run."""

    def copy_out(self, array: Array, address: int) -> None:
        """Queue: copy from the device into a contiguous host array."""

    def copy_2d(self, target: tuple[int, int], source: tuple[int, int], width: int, height: int) -> None:
        """Queue: copy `height` runs of `width` bytes within device memory.

        Args:
            target, source: address of the first run, and pitch: the bytes from the start of one run to the next.
        """

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture what `work` queues, without running it.

        Returns:
            A function that queues all of it at once (CUDA graph replay).
        """

    def synchronize(self) -> None:
        """Wait until everything queued has run.

        Raises:
            EdgekilnError: a queued operation failed.
        """
