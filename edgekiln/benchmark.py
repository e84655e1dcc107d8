"""Measure the speed and memory of an engine: requests of random tokens, with a time for each decode step."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekiln.errors import RequestError
from edgekiln.progress import StepProgress
from edgekiln.runtimes.base import Ids, Runtime


@dataclass(frozen=True)
class Workload:
    """The requests of a benchmark.

    Attributes:
        prompt_tokens: tokens of each prompt.
        gen_tokens: generated tokens of each prompt; at least 2, because decoding is timed from the second token on.
        batch: prompts of a request.
        repeat: measured requests.

    Raises:
        RequestError: a number is out of range.
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
    """Times of one request, in seconds.

    Attributes:
        first_token_s: until each prompt of the batch has its first token.
        step_s: of each decode step.
    """

    first_token_s: float
    step_s: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class BenchmarkResult:
    """The measurements of one workload.

    Attributes:
        ttft_ms: time to first token, in ms.
        prefill_tokens_per_s: prompt tokens of the whole batch per second.
        decode_tokens_per_s: generated tokens of the whole batch per second, without the first of each prompt.
        inter_token_p50_ms: median duration of a decode step, in ms.
        inter_token_p95_ms: 95th percentile of the durations of decode steps, in ms.
    """

    ttft_ms: Spread
    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    inter_token_p50_ms: float
    inter_token_p95_ms: float

    @classmethod
    def of(cls, samples: Sequence[Sample], workload: Workload) -> "BenchmarkResult":
        """Summarize the samples of `workload`."""
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
        """A flat JSON object: `NAME` is the median of a spread, `NAME_range` its [minimum, maximum]."""
        result: dict[str, float | list[float]] = {}
        for name, value in vars(self).items():
            if isinstance(value, Spread):
                result[name] = value.median
                result[f"{name}_range"] = [value.low, value.high]
            else:
                result[name] = value
        return result


def random_prompts(workload: Workload, vocab_size: int, generator: np.random.Generator) -> Ids:
    """Random token ids, int64 [batch, prompt_tokens]. Speed does not depend on the tokens."""
    return generator.integers(0, vocab_size, (workload.batch, workload.prompt_tokens), dtype=np.int64)


def benchmark_request(runtime: Runtime, prompts: Ids, gen_tokens: int) -> Sample:
    """Time one request in a new KV cache.

    Args:
        runtime: the engine.
        prompts: int64 [B, P]; prompts are prefilled one by one.
        gen_tokens: tokens generated for each prompt, greedily; end-of-sequence tokens are ignored.

    Raises:
        RequestError: the engine holds fewer tokens.
    """
    total = prompts.shape[1] + gen_tokens
    if total > runtime.properties.max_length:
        advice = runtime.properties.length_advice.replace("shorten it", "measure fewer")
        raise RequestError(
            f"prompt and answer have {total} tokens, the engine holds {runtime.properties.max_length}: {advice}"
        )
    start = time.perf_counter()
    cache = runtime.new_cache(len(prompts))
    tokens = np.array([runtime.prefill(cache, i, prompt).argmax() for i, prompt in enumerate(prompts)], np.int64)
    times = [time.perf_counter()]
    for _ in range(gen_tokens - 1):
        tokens = runtime.step(cache, tokens).argmax(axis=-1)
        times.append(time.perf_counter())
    return Sample(times[0] - start, tuple(np.diff(times).tolist()))


def run(runtime: Runtime, workload: Workload, seed: int = 0, progress: StepProgress | None = None) -> BenchmarkResult:
    """Measure `workload` after one warm-up request; each request has new random prompts.

    Args:
        runtime: the engine.
        workload: the requests.
        seed: of the random prompts.
        progress: called with the share of requests that are done, in [0, 1].

    Raises:
        RequestError: the engine holds fewer tokens than a request needs.
    """
    generator = np.random.default_rng(seed)
    samples = []
    for done in range(workload.repeat + 1):
        if progress:
            progress(done / (workload.repeat + 1))
        prompts = random_prompts(workload, runtime.properties.vocab_size, generator)
        samples.append(benchmark_request(runtime, prompts, workload.gen_tokens))
    return BenchmarkResult.of(samples[1:], workload)


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    if sys.platform == "linux":
        # ru_maxrss is inherited through fork and exec: it would include the parent's memory.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6
