"""Benchmarks of a fake runtime whose calls take a known time."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edgekiln import benchmark
from edgekiln.benchmark import BenchmarkResult, Sample, Spread, Workload, benchmark_request, random_prompts, run
from edgekiln.engine.manifest import LONGER_ENGINE
from edgekiln.errors import RequestError

VOCABULARY, MAX_LENGTH = 50, 64


class FakeRuntime:
    """A prefill takes `prefill_s`, a step the next of `step_s`; the largest logit is at the last token plus one."""

    def __init__(self, clock: "FakeClock", prefill_s: float, step_s: list[float]) -> None:
        self.properties = SimpleNamespace(vocab_size=VOCABULARY, max_length=MAX_LENGTH, length_advice=LONGER_ENGINE)
        self.clock, self.prefill_s, self.step_s = clock, prefill_s, list(step_s)
        self.stepped: list[list[int]] = []
        self.caches: list[int] = []

    def new_cache(self, batch_size: int = 1) -> int:
        self.caches.append(batch_size)
        return len(self.caches)

    def prefill(self, _cache: int, _row: int, tokens: np.ndarray) -> np.ndarray:
        self.clock.now += self.prefill_s
        return self._logits(tokens[-1:])[0]

    def step(self, _cache: int, tokens: np.ndarray) -> np.ndarray:
        self.clock.now += self.step_s.pop(0)
        self.stepped.append(tokens.tolist())
        return self._logits(tokens)

    def _logits(self, tokens: np.ndarray) -> np.ndarray:
        return np.eye(VOCABULARY, dtype=np.float32)[(tokens + 1) % VOCABULARY]


class FakeClock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(benchmark, "time", clock)
    return clock


def test_request_is_timed_and_continued_greedily(clock: FakeClock) -> None:
    runtime = FakeRuntime(clock, prefill_s=2.0, step_s=[0.5, 0.25])
    sample = benchmark_request(runtime, np.array([[3, 4, 5], [7, 8, 49]]), gen_tokens=3)
    assert sample == Sample(first_token_s=4.0, step_s=(0.5, 0.25))
    assert runtime.stepped == [[6, 0], [7, 1]]
    assert runtime.caches == [2]


def test_the_warm_up_request_is_not_counted(clock: FakeClock) -> None:
    steps = [9.0] * 3 + [0.5, 0.5, 0.5] + [0.25, 0.25, 0.25] + [0.125, 0.125, 0.25]
    runtime = FakeRuntime(clock, prefill_s=2.0, step_s=steps)
    shares: list[float] = []
    result = run(runtime, Workload(prompt_tokens=10, gen_tokens=4, batch=2, repeat=3), progress=shares.append)
    assert result.ttft_ms == Spread(4000, 4000, 4000)
    assert result.prefill_tokens_per_s == Spread(5, 5, 5)
    assert result.decode_tokens_per_s == Spread(median=8, low=4, high=12)
    assert result.inter_token_p50_ms == 250
    assert result.inter_token_p95_ms == 500
    assert shares == [0, 0.25, 0.5, 0.75]
    assert len(runtime.caches) == 4


def test_json_is_flat_and_has_ranges() -> None:
    result = BenchmarkResult.of(
        [Sample(2.0, (0.5,)), Sample(4.0, (0.25,))], Workload(prompt_tokens=8, gen_tokens=2, repeat=2)
    )
    assert result.as_json() == {
        "ttft_ms": 3000,
        "ttft_ms_range": [2000, 4000],
        "prefill_tokens_per_s": 3,
        "prefill_tokens_per_s_range": [2, 4],
        "decode_tokens_per_s": 3,
        "decode_tokens_per_s_range": [2, 4],
        "inter_token_p50_ms": 375,
        "inter_token_p95_ms": pytest.approx(487.5),
    }


def test_prompts_differ_and_are_inside_the_vocabulary() -> None:
    generator = np.random.default_rng(0)
    workload = Workload(prompt_tokens=1000, batch=3)
    first, second = (random_prompts(workload, VOCABULARY, generator) for _ in range(2))
    assert first.shape == (3, 1000)
    assert first.dtype == np.int64
    assert set(np.unique(first)) == set(range(VOCABULARY))
    assert (first != second).any()


def test_a_request_longer_than_the_engine_is_refused(clock: FakeClock) -> None:
    runtime = FakeRuntime(clock, 1.0, [])
    with pytest.raises(RequestError, match=r"65 tokens, the engine holds 64.*--max-length"):
        benchmark_request(runtime, np.zeros((1, 60), np.int64), gen_tokens=5)


@pytest.mark.parametrize(
    "bad", [{"prompt_tokens": 0}, {"gen_tokens": 1}, {"batch": 0}, {"repeat": 0}], ids=lambda bad: next(iter(bad))
)
def test_workload_out_of_range(bad: dict[str, int]) -> None:
    (name, value), *_ = bad.items()
    with pytest.raises(RequestError, match=f"{name} must be at least .*, got {value}"):
        Workload(**bad)


def test_peak_memory_includes_freed_memory_of_this_process_only() -> None:
    script = (
        "from edgekiln.benchmark import peak_rss_mb\n"
        "before = peak_rss_mb()\n"
        "block = b'x' * 100_000_000\n"
        "del block\n"
        "print(before, peak_rss_mb())"
    )
    held = b"x" * 300_000_000  # a child must not count its parent's memory
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    del held
    before, after = map(float, done.stdout.split())
    assert 5 < before < 200
    assert 90 < after - before < 120
