"""A measured program as a process: requests come as lines of JSON on stdin, answers go as lines on stdout.

The first line it writes says that the model is loaded. Everything that a library prints goes to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

M = TypeVar("M")


class Model(Protocol):
    """What a worker measures."""

    def generate(self, prompts: NDArray[np.int64], count: int) -> Sequence[float]:
        """Continue int64[B, P] prompts greedily by `count` tokens each, ended by nothing else.

        Returns:
            Seconds of time.perf_counter at each token, when every row has it: `count` of them.
        """

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits float32[S, V] of every position of int64[S]."""


def energy_j() -> float | None:
    """Joules that the processor packages have used so far, where the machine tells."""
    paths = Path("/sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj")
    try:
        values = [int(path.read_text()) for path in paths if path.parent.name.count(":") == 1]
    except OSError:
        return None
    return sum(values) / 1e6 if values else None


def negative_log_likelihood(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
    """Sum over positions 1 … S-1 of -ln p(token | those before it)."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(rows, tokens[1:, None], axis=-1)[:, 0]
    return float((np.log(np.exp(rows).sum(axis=-1)) - chosen).sum())


def listen(load: Callable[[str, int], M], respond: Callable[[M, dict[str, Any]], dict[str, Any]]) -> None:
    """Load the model named by the arguments PATH THREADS, then respond to each request until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    start = time.perf_counter()
    model = load(sys.argv[1], int(sys.argv[2]))
    answer({"load_s": time.perf_counter() - start})
    for line in sys.stdin:
        answer(respond(model, json.loads(line)))


def measured(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """Score a window, or time the continuation of a batch of prompts."""
    if "score" in request:
        tokens = np.array(request["score"], np.int64)
        return {"nll": negative_log_likelihood(model.score(tokens), tokens)}
    prompts = np.array(request["prompts"], np.int64)
    before, start = energy_j(), time.perf_counter()
    times = model.generate(prompts, request["count"])
    after = energy_j()
    return {
        "first_token_s": times[0] - start,
        "step_s": np.diff(times).tolist(),
        "energy_j": None if before is None or after is None else after - before,
    }


def serve(load: Callable[[str, int], Model]) -> None:
    """Measure a model until stdin ends."""
    listen(load, measured)
