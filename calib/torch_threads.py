"""The number of threads of torch while models are calibrated, quantized and evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekiln.runtimes.threads import default_threads


@contextmanager
def limited_torch_threads() -> Iterator[None]:
    """Let torch use at most `default_threads` inside the block: its own default does not follow a CPU quota."""
    threads, most = torch.get_num_threads(), default_threads()
    if threads <= most:
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
