"""The little that an adapter asks of a device: memory, copies, one stream, and work recorded once and replayed.

All of it is queued on the one stream, in order; `synchronize` waits. Addresses are plain integers, so that planning
what goes where is arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
# What TensorRT asks of addresses, and what cudaMalloc gives.
ALIGNMENT = 256


@dataclass(frozen=True, eq=False)
class Buffer:
    """Device memory of `size` bytes at `address`; freed when nothing refers to it."""

    address: int
    size: int


@dataclass(frozen=True, eq=False)
class Pinned:
    """A host array in memory that the device copies to and from without help; freed with this object."""

    array: Array


class Device(Protocol):
    """One GPU and one stream of work on it."""

    @property
    def compute_capability(self) -> str:
        """As in 8.9."""

    @property
    def stream(self) -> int:
        """The stream, as libraries want it."""

    def allocate(self, size: int, what: str) -> Buffer:
        """`size` bytes on a boundary of `ALIGNMENT`, whose values mean nothing.

        Raises:
            EdgekilnError: there is not as much, named `what` in the message.
        """

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Pinned:
        """A host array of `shape` whose values mean nothing."""

    def zero(self, buffer: Buffer) -> None:
        """Queue: all bytes become 0."""

    def copy_in(self, address: int, array: Array) -> None:
        """Queue: a contiguous host `array`, unchanged until then, goes to the device."""

    def copy_out(self, array: Array, address: int) -> None:
        """Queue: a contiguous host `array` is filled from the device."""

    def copy_rows(self, target: tuple[int, int], source: tuple[int, int], width: int, count: int) -> None:
        """Queue: `count` pieces of `width` bytes within the device; (address, bytes from one piece to the next)."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` queues, without doing it, as one call that queues all of it again."""

    def synchronize(self) -> None:
        """Wait until all that was queued is done.

        Raises:
            EdgekilnError: something of it failed.
        """
