"""A measured engine as a process: one line of JSON per request on stdin, one line of JSON per answer on stdout.

Usage of every module beside this one: `python -m bench.engines.NAME MODEL_PATH THREADS [lookup]`. The first line of
output says that the model is loaded. What libraries print on stdout is redirected to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LOOKUP = "lookup"  # argument after THREADS: load the model with prompt lookup decoding


@dataclass(frozen=True)
class Request:
    """A prompt to answer greedily.

    Attributes:
        prompt: int64[P], token ids.
        max_tokens: at most so many tokens are generated, the end token included.
        eos: ids that end the answer.
        draft_tokens: tokens drafted at a time, for engines where the number is fixed; 0 for none.
    """

    prompt: NDArray[np.int64]
    max_tokens: int
    eos: frozenset[int]
    draft_tokens: int


@dataclass(frozen=True)
class Answer:
    """A greedy answer.

    Attributes:
        ids: generated token ids, the end token included.
        decode_s: seconds from the first token to the last.
        runs: forward passes after the one that gave the first token.
        drafted: drafted tokens; None where the library does not tell.
    """

    ids: list[int]
    decode_s: float
    runs: int
    drafted: int | None


class Engine(Protocol):
    """What is measured of one library; constructed with (model path, threads, prompt lookup)."""

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Continue int64[B, P] prompts greedily by exactly `count` tokens each; no token ends the answer.

        Returns:
            `count` times of time.perf_counter in seconds, one a token, taken when every sequence has it.
        """

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits float32[S, V] of every position of int64[S]."""

    def answer(self, request: Request) -> Answer:
        """Answer a prompt greedily to its end."""


def energy_j() -> float | None:
    """Joules used by the processor packages so far (Linux powercap, RAPL); None where it cannot be read."""
    paths = Path("/sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj")
    try:
        values = [int(path.read_text()) for path in paths if path.parent.name.count(":") == 1]
    except OSError:
        return None
    return sum(values) / 1e6 if values else None


def negative_log_likelihood(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
    """Sum of -ln p(tokens[i] | tokens[:i]) for i in 1 … S-1; logits float32[S, V], tokens int64[S]."""
    shifted = logits[:-1].astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, tokens[1:, None], axis=-1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=-1)) - chosen).sum())


def respond(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Score a window (`score`), answer a prompt (`prompt`) or time a batch of continuations (`prompts`)."""
    if "score" in request:
        tokens = np.array(request["score"], np.int64)
        return {"nll": negative_log_likelihood(engine.score(tokens), tokens)}
    if "prompt" in request:
        prompt = np.array(request["prompt"], np.int64)
        eos = frozenset(request["eos"])
        return vars(engine.answer(Request(prompt, request["max_tokens"], eos, request["draft_tokens"])))
    prompts = np.array(request["prompts"], np.int64)
    before, start = energy_j(), time.perf_counter()
    times = engine.generate(prompts, request["count"])
    after = energy_j()
    return {
        "first_token_s": times[0] - start,
        "step_s": np.diff(times).tolist(),
        "energy_j": None if before is None or after is None else after - before,
    }


def serve(load: Callable[[str, int, bool], Engine]) -> None:
    """Load the model that the command line names, then answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    start = time.perf_counter()
    engine = load(sys.argv[1], int(sys.argv[2]), LOOKUP in sys.argv[3:])
    write({"load_s": time.perf_counter() - start})
    for line in sys.stdin:
        write(respond(engine, json.loads(line)))
