"""Speed and memory of a runtime: one request is prefilled and continued greedily, and every step is timed."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Ids, Runtime


@dataclass(frozen=True)
class Workload:
    """One request: `batch` prompts of `prompt_tokens` each, continued by `gen_tokens` each, measured `repeat` times.

    Raises:
        RequestError: a number is out of range; decoding needs at least 2 generated tokens.
    """

    prompt_tokens: int = 512
    gen_tokens: int = 128
    batch: int = 1
    repeat: int = 5

    def __post_init__(self) -> None:
        for name, low in (("prompt_tokens", 1), ("gen_tokens", 2), ("batch", 1), ("repeat", 1)):
            if getattr(self, name) < low:
                raise RequestError(f"{name} must be at least {low}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Sample:
    """Times of one request in seconds: to the first token of every row, then of each decode step."""

    first_token_s: float
    step_s: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Figures:
    """What the samples of one workload say; tokens/s are of all rows together."""

    ttft_ms: Spread
    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    inter_token_p50_ms: float
    inter_token_p95_ms: float

    @classmethod
    def of(cls, samples: Sequence[Sample], workload: Workload) -> "Figures":
        """Summarize samples of `workload`."""
        prompt = workload.batch * workload.prompt_tokens
        steps = np.concatenate([sample.step_s for sample in samples]) * 1e3
        return cls(
            ttft_ms=Spread.of([sample.first_token_s * 1e3 for sample in samples]),
            prefill_tokens_per_s=Spread.of([prompt / sample.first_token_s for sample in samples]),
            decode_tokens_per_s=Spread.of(
                [workload.batch * len(sample.step_s) / sum(sample.step_s) for sample in samples]
            ),
            inter_token_p50_ms=float(np.percentile(steps, 50)),
            inter_token_p95_ms=float(np.percentile(steps, 95)),
        )

    def as_json(self) -> dict[str, float | list[float]]:
        """Flat keys: a spread is its median under its name and [smallest, largest] under `NAME_range`."""
        result: dict[str, float | list[float]] = {}
        for name, value in vars(self).items():
            if isinstance(value, Spread):
                result[name] = value.median
                result[f"{name}_range"] = [value.low, value.high]
            else:
                result[name] = value
        return result


def random_prompts(workload: Workload, vocab_size: int, generator: np.random.Generator) -> Ids:
    """Random token ids, int64[batch, prompt_tokens]: speed does not depend on what they say."""
    return generator.integers(0, vocab_size, (workload.batch, workload.prompt_tokens), dtype=np.int64)


def measure_request(runtime: Runtime, prompts: Ids, gen_tokens: int) -> Sample:
    """Time one request in a cache of its own.

    Args:
        runtime: the engine.
        prompts: int64[B, P], prefilled row by row.
        gen_tokens: tokens generated for each row, the largest logit each time, end-of-sequence or not.

    Raises:
        RequestError: the engine does not hold that many tokens.
    """
    total = prompts.shape[1] + gen_tokens
    if total > runtime.properties.max_length:
        raise RequestError(
            f"prompt and answer have {total} tokens, the engine holds {runtime.properties.max_length}: "
            "measure fewer or raise --max-length at export"
        )
    start = time.perf_counter()
    cache = runtime.new_cache(len(prompts))
    tokens = np.array([runtime.prefill(cache, row, prompt).argmax() for row, prompt in enumerate(prompts)], np.int64)
    times = [time.perf_counter()]
    for _ in range(gen_tokens - 1):
        tokens = runtime.step(cache, tokens).argmax(axis=-1)
        times.append(time.perf_counter())
    return Sample(times[0] - start, tuple(np.diff(times).tolist()))


def measure(
    runtime: Runtime, workload: Workload, seed: int = 0, progress: Callable[[float], None] | None = None
) -> Figures:
    """Measure `workload`, after one request that is not counted; each repeat has fresh random prompts.

    Args:
        runtime: the engine.
        workload: what to run.
        seed: of the prompts.
        progress: called with the share done in [0, 1].

    Raises:
        RequestError: the engine does not hold that many tokens.
    """
    generator = np.random.default_rng(seed)
    samples = []
    for done in range(workload.repeat + 1):
        if progress:
            progress(done / (workload.repeat + 1))
        prompts = random_prompts(workload, runtime.properties.vocab_size, generator)
        samples.append(measure_request(runtime, prompts, workload.gen_tokens))
    return Figures.of(samples[1:], workload)


def peak_rss_mb() -> float:
    """Most memory this process has held so far, in MB (10^6 bytes)."""
    if sys.platform == "linux":
        # getrusage would also count what the parent held before exec.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6
