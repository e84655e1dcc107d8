"""Work on a matrix by chunks of rows, a thread a chunk."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

# Elements of a chunk: few enough for its buffers to stay in cache, enough to hide the cost of calling an operator.
_CHUNK = 1 << 18
_Result = TypeVar("_Result")


def map_rows(function: Callable[[slice], _Result], rows: int, columns: int) -> list[_Result]:
    """Call `function` with each slice of rows, on as many threads as torch is set to use; results in row order.

    The slices depend on the shape only, so sums over chunks come out the same on any machine.
    """
    step = max(1, _CHUNK // columns)
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    with _one_thread_an_operator() as threads, ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, slices))


@contextmanager
def _one_thread_an_operator() -> Iterator[int]:
    """Keep torch from splitting each operator and yield how many threads it used to have.

    Splitting ends every operator in a spinning barrier: on cores shared with other programs, hundreds of thousands of
    small operators then take 30 times as long. Whole chunks on plain threads meet only once.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
