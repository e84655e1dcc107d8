"""Limits of a scheduler, and the errors of requests that it refuses."""

from dataclasses import dataclass
from pathlib import Path

from edgekiln.errors import EdgekilnError, RequestError


@dataclass(frozen=True)
class SchedulerOptions:
    """Limits of a scheduler.

    Attributes:
        slots: sequences that the KV cache holds: requests that run together, and finished ones whose tokens may be
            taken over by later prompts.
        max_waiting: requests that wait for a slot, at most.
        max_length: tokens of a prompt and its answer, at most; None: what the engine holds.
        reserve: tokens of each sequence for which the cache has room from the start. It grows when needed, which takes
            time; memory that is not used costs nothing on a CPU.
        kv_memory: bytes of keys, values and states that requests and finished sequences may take; None: no limit.
        prefix_cache: directory for beginnings that several prompts had, see `edgekiln.runtimes.scheduler.prefix_store`;
            None: they are kept in memory only.
        prefix_cache_size: bytes of the files in it.

    Raises:
        RequestError: a value is out of range.
    """

    slots: int = 8
    max_waiting: int = 64
    max_length: int | None = None
    reserve: int = 0
    kv_memory: int | None = None
    prefix_cache: Path | None = None
    prefix_cache_size: int = 1 << 30

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise RequestError(f"slots must be at least 1, got {self.slots}")
        if self.max_waiting < 0:
            raise RequestError(f"max_waiting must be 0 or more, got {self.max_waiting}")
        if self.max_length is not None and self.max_length < 2:
            raise RequestError(f"max_length must be at least 2 tokens, got {self.max_length}")
        if self.reserve < 0:
            raise RequestError(f"reserve must be 0 or more tokens, got {self.reserve}")
        if self.prefix_cache_size < 0:
            raise RequestError(f"prefix_cache_size must be 0 or more bytes, got {self.prefix_cache_size}")
        if self.kv_memory is not None and self.kv_memory < 1:
            raise RequestError(f"kv_memory must be at least 1 byte, got {self.kv_memory}")

    def longest_sequence(self, held: int) -> int:
        """Tokens of a prompt and its answer, at most, with an engine that holds `held`."""
        return held if self.max_length is None else min(self.max_length, held)


class QueueFullError(RequestError):
    """As many requests wait as may.

    Attributes:
        retry_after_s: seconds after which a slot is likely to be free.
    """

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} requests are waiting, the most that may: try again later")
        self.retry_after_s = retry_after_s


class ShuttingDownError(EdgekilnError):
    """The scheduler takes no more requests."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down: send the request to another one")
