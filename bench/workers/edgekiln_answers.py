"""edgekiln: answers through its own generate loop, text included."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from answers import Answer, Request, lookup, serve_answers
from numpy.typing import NDArray

from edgekiln import runtimes
from edgekiln.bundle import read_manifest
from edgekiln.runtimes.generate import GenerateOptions, generate
from edgekiln.runtimes.tokenizer import Tokenizer


class Counting:
    """A runtime that counts its runs over generated tokens and the tokens that were drafted."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.runs = self.drafted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def step(self, cache: Any, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """One token."""
        self.runs += 1
        return self._runtime.step(cache, tokens)

    def verify(self, cache: Any, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """The last token and those drafted after it."""
        self.runs += 1
        self.drafted += len(tokens) - 1
        return self._runtime.verify(cache, row, tokens)


class Edgekiln:
    """An engine, which decides itself how much it drafts."""

    def __init__(self, path: str, threads: int) -> None:
        self._runtime = runtimes.open(Path(path), threads=threads)
        self._tokenizer = Tokenizer.from_engine(path, read_manifest(path, verify=False))

    def answer(self, request: Request) -> Answer:
        """The engine's manifest says where an answer ends."""
        runtime = Counting(self._runtime)
        options = GenerateOptions(max_tokens=request.most, speculate=lookup())
        ids, times = [], []
        for token in generate(runtime, self._tokenizer, [request.prompt], options):
            ids.append(token.id)
            times.append(time.perf_counter())
        return Answer(ids, times[-1] - times[0], runtime.runs, runtime.drafted)


if __name__ == "__main__":
    serve_answers(Edgekiln)
