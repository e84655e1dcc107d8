"""edgekiln: an engine directory."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from serve import serve

from edgekiln import runtimes


class Edgekiln:
    """An engine, timed through the calls that its generate loop makes."""

    def __init__(self, path: str, threads: int) -> None:
        self._runtime = runtimes.open(Path(path), threads=threads)

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Prefill row by row, then step all rows together."""
        cache = self._runtime.new_cache(len(prompts))
        rows = [self._runtime.prefill(cache, row, prompt).argmax() for row, prompt in enumerate(prompts)]
        times = [time.perf_counter()]
        tokens = np.array(rows, np.int64)
        while len(times) < count:
            tokens = self._runtime.step(cache, tokens).argmax(axis=-1)
            times.append(time.perf_counter())
        return times

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """The engine's own scorer."""
        return self._runtime.score(tokens)


if __name__ == "__main__":
    serve(Edgekiln)
