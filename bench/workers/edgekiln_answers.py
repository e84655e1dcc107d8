"""edgekiln: answers through its own generate loop, text included."""

import time
from pathlib import Path

from answers import Answer, Request, lookup, serve_answers

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.generate.generate import GenerateOptions, generate
from edgekiln.runtimes.generate.speculative_decoder import Drafts
from edgekiln.runtimes.text.tokenizer import Tokenizer


class Edgekiln:
    """An engine, which decides itself how much it drafts."""

    def __init__(self, path: str, threads: int) -> None:
        self._runtime = runtimes.open(Path(path), threads=threads)
        self._tokenizer = Tokenizer.from_engine(path, read_manifest(path, verify=False))

    def answer(self, request: Request) -> Answer:
        """The engine's manifest says where an answer ends."""
        options = GenerateOptions(max_tokens=request.most, speculate=lookup())
        drafts = Drafts()
        ids, times = [], []
        for token in generate(self._runtime, self._tokenizer, [request.prompt], options, drafts=drafts):
            ids.append(token.id)
            times.append(time.perf_counter())
        # Each token after the first took a run, unless it was drafted and accepted.
        return Answer(ids, times[-1] - times[0], len(ids) - 1 - drafts.accepted, drafts.drafted)


if __name__ == "__main__":
    serve_answers(Edgekiln)
