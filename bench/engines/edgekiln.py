"""edgekiln: an engine directory, through the Python runtime."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.engines.serve import Answer, Request, serve
from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.text.tokenizer import Tokenizer


class Edgekiln:
    """Timed through the runtime calls of its generate loop; answers through the loop itself, text included."""

    def __init__(self, path: str, threads: int, lookup: bool) -> None:
        self._runtime = runtimes.open(Path(path), threads=threads)
        self._path, self._lookup = path, lookup

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Prefill prompt by prompt, then step the whole batch."""
        cache = self._runtime.new_cache(len(prompts))
        first = [self._runtime.prefill(cache, index, prompt).argmax() for index, prompt in enumerate(prompts)]
        times = [time.perf_counter()]
        tokens = np.array(first, np.int64)
        while len(times) < count:
            tokens = self._runtime.step(cache, tokens).argmax(axis=-1)
            times.append(time.perf_counter())
        return times

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the engine's scoring graph."""
        return self._runtime.score(tokens)

    def answer(self, request: Request) -> Answer:
        """The manifest gives the end tokens, and the engine chooses the number of draft tokens itself."""
        options = GenerateOptions(max_tokens=request.max_tokens, speculate=self._lookup)
        tokenizer = Tokenizer.from_engine(self._path, read_manifest(self._path, verify=False))
        stats = SpeculationStats()
        ids, times = [], []
        for token in generate(self._runtime, tokenizer, [request.prompt], options, stats=stats):
            ids.append(token.id)
            times.append(time.perf_counter())
        # Each token after the first took a run, unless it was drafted and accepted.
        return Answer(ids, times[-1] - times[0], len(ids) - 1 - stats.accepted, stats.drafted)


if __name__ == "__main__":
    serve(Edgekiln)
