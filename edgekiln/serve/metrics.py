"""Metrics for Prometheus."""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from edgekiln.runtimes.scheduler.stats import SchedulerStats

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)
_REQUEST = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)

# The statistics of each engine that is loaded, by its name.
StatsFunction = Callable[[], Iterable[tuple[str, SchedulerStats]]]

# Attribute of SchedulerStats -> name, help, and whether it only grows.
_ENGINE_METRICS = {
    "waiting": ("requests_waiting", "Answers that wait for a slot.", False),
    "running": ("requests_running", "Answers that are computed.", False),
    "slots": ("slots", "Answers that are computed at the same time, at most.", False),
    "kv_bytes": ("kv_bytes", "Bytes of the KV cache.", False),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were computed.", True),
    "cached_tokens": ("cached_tokens", "Tokens of prompts that were in the cache.", True),
    "generated_tokens": ("generated_tokens", "Tokens that were generated.", True),
}


class Latencies:
    """The histograms of one engine that are updated with every token."""

    def __init__(self, first: Histogram, between: Histogram) -> None:
        """Observe into these."""
        self._first = first
        self._between = between

    def token(self, seconds: float, first: bool) -> None:
        """A token arrived, `seconds` after the one before it; after the request if it is the first of its answer."""
        (self._first if first else self._between).observe(seconds)


class Metrics:
    """The metrics of a server, of which there may be several in a process."""

    def __init__(self, stats: StatsFunction) -> None:
        """`stats` is called at every scrape."""
        disable_created_metrics()  # a time of creation for each line
        self._registry = CollectorRegistry()
        self._registry.register(_EngineMetrics(stats))
        self._latencies: dict[str, Latencies] = {}
        self._requests = Counter(
            "edgekiln_http_requests",
            "Requests that were answered, by route and HTTP status.",
            ("route", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "edgekiln_http_request_seconds",
            "Time to the end of a request.",
            ("route",),
            buckets=_REQUEST,
            registry=self._registry,
        )
        self._first = Histogram(
            "edgekiln_time_to_first_token_seconds",
            "Time from a request to the first token of each of its answers.",
            ("model",),
            buckets=_FIRST,
            registry=self._registry,
        )
        self._between = Histogram(
            "edgekiln_inter_token_seconds",
            "Time between two tokens of an answer.",
            ("model",),
            buckets=_BETWEEN,
            registry=self._registry,
        )
        self.open_requests = Gauge(
            "edgekiln_http_requests_open", "Requests that are being answered.", registry=self._registry
        )
        start = Gauge("edgekiln_start_time_seconds", "Unix time at which the server started.", registry=self._registry)
        start.set(time.time())

    def request(self, route: str, code: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def latencies(self, model: str) -> Latencies:
        """The histograms of an engine."""
        if model not in self._latencies:
            self._latencies[model] = Latencies(self._first.labels(model), self._between.labels(model))
        return self._latencies[model]

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        text: bytes = generate_latest(self._registry)
        return text


class _EngineMetrics(Collector):
    """What the schedulers count themselves, read at every scrape."""

    def __init__(self, stats: StatsFunction) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        engines = list(self._stats())
        for attribute, (name, text, grows) in _ENGINE_METRICS.items():
            family = (CounterMetricFamily if grows else GaugeMetricFamily)(f"edgekiln_{name}", text, labels=["model"])
            for model, stats in engines:
                family.add_metric([model], float(getattr(stats, attribute)))
            yield family
        sizes = HistogramMetricFamily("edgekiln_batch_size", "Answers in a decode step.", labels=["model"])
        for model, stats in engines:
            counts = stats.steps
            buckets = [(str(float(most)), sum(n for size, n in counts.items() if size <= most)) for most in _BATCH]
            buckets.append(("+Inf", sum(counts.values())))
            sizes.add_metric([model], buckets, sum(size * count for size, count in counts.items()))
        yield sizes
