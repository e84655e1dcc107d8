"""Process a weight [N, K] in slices of output channels, one slice per thread."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

# Elements of a slice: its buffers fit the CPU's caches, and torch's operators are long enough to hide their overhead.
_SLICE_ELEMENTS = 1 << 18
# Each thread has some 10 MB of buffers.
_MAX_THREADS = 32
_Result = TypeVar("_Result")


def map_channels(function: Callable[[slice], _Result], n: int, k: int) -> list[_Result]:
    """Call `function` with consecutive slices of the N output channels of a weight [N, K], in parallel.

    Slices depend on the shape only, so that sums over them are the same on any machine. They run on as many threads as
    torch is set to use, at most 32.

    Returns:
        The results, in the order of the slices.
    """
    step = max(1, _SLICE_ELEMENTS // k)
    slices = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    with _single_threaded_torch() as threads, ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, slices))


@contextmanager
def _single_threaded_torch() -> Iterator[int]:
    """Set torch to one thread inside the block; yields the number of threads that it was set to.

    A parallel torch operator ends in a spinning barrier. Where cores are shared with other programs, hundreds of
    thousands of small operators then take 30 times as long. Slices on plain threads synchronize only once.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield min(threads, _MAX_THREADS)
    finally:
        torch.set_num_threads(threads)
