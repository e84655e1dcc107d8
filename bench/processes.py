"""Workers as processes: one request at a time, and stopped between requests."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from candidates import Candidate
from json_process import JsonProcess
from numpy.typing import NDArray

WORKERS = Path(__file__).with_name("workers")
# Answers with libedgekiln, a line of JSON for a line of JSON; `make cpp` builds it.
HOST = Path(__file__).parent.parent / "build" / "cpp" / "tests" / "lib" / "edgekiln_answer"
ANSWERED = 32  # tokens of a process that is started for one request
Ids = NDArray[np.int64]


class Process(JsonProcess):
    """A loaded model. Between requests it is stopped, because threads that wait spinning would take others' cores."""

    def __init__(self, candidate: Candidate, path: Path, threads: int) -> None:
        """Start it and wait until it has loaded.

        Raises:
            SystemExit: it ended instead.
        """
        command = [candidate.python, WORKERS / candidate.worker, path, str(threads), *candidate.arguments]
        log = path.with_name("-".join([path.name, *candidate.arguments]) + ".worker.log")
        super().__init__(command, log, {"OMP_NUM_THREADS": str(threads)})
        self.load_s = float(self.hello["load_s"])

    def generate(self, prompts: Ids, count: int) -> dict[str, Any]:
        """Time one request; see `workers/serve.py`."""
        return self.ask(prompts=prompts.tolist(), count=count)

    def stop(self) -> None:
        """Let it do nothing."""
        self.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        self.send_signal(signal.SIGCONT)


def speeds(answer: dict[str, Any], batch: int, length: int) -> dict[str, float]:
    """What the answer to `batch` prompts of `length` tokens says; tokens/s are of all rows together."""
    return {
        "prefill_tokens_per_s": batch * length / answer["first_token_s"],
        "decode_tokens_per_s": batch * len(answer["step_s"]) / sum(answer["step_s"]),
    }


def first_token_from_nothing(candidate: Candidate, path: Path, threads: int, prompts: Ids) -> dict[str, float]:
    """Start a process for one request: seconds to load, to its first token, and its memory after `ANSWERED`."""
    process = Process(candidate, path, threads)
    ready = time.perf_counter() - process.started
    answer = process.generate(prompts, ANSWERED)
    return _from_nothing(process, process.load_s, ready + answer["first_token_s"])


def host_command(path: Path, threads: int) -> list[str]:
    """What starts libedgekiln with an engine.

    Raises:
        SystemExit: it has not been built.
    """
    if not HOST.exists():
        raise SystemExit(f"there is no {HOST}: run make cpp")
    return [str(HOST), str(path), json.dumps({"threads": threads})]


def host_from_nothing(path: Path, threads: int, prompts: Ids) -> dict[str, float]:
    """The same of libedgekiln, without Python: a process for one request of int64[1, P] prompt ids.

    Raises:
        SystemExit: it ended instead, or has not been built.
    """
    process = JsonProcess(host_command(path, threads))
    if process.hello["status"] != 0:
        raise SystemExit(process.hello["error"])
    loaded = time.perf_counter() - process.started
    answer = process.ask(ids=prompts[0].tolist(), max_tokens=ANSWERED, ignore_eos=True, speculate=False)
    return _from_nothing(process, loaded, loaded + answer["first_token_s"])


def _from_nothing(process: JsonProcess, load_s: float, cold_start_s: float) -> dict[str, float]:
    figures = {"load_s": load_s, "cold_start_s": cold_start_s, "peak_rss_mb": process.peak_rss_mb()}
    process.end()
    return figures


def perplexity(candidate: Candidate, path: Path, threads: int, tokens: Ids, window: int) -> float:
    """exp of the mean negative log-likelihood over whole windows of int64[N] tokens."""
    process = Process(candidate, path, threads)
    windows = [tokens[start : start + window] for start in range(0, tokens.size - window + 1, window)]
    total = sum(float(process.ask(score=part.tolist())["nll"]) for part in windows)
    process.end()
    return float(np.exp(total / (len(windows) * (window - 1))))
