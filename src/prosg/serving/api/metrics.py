"""Counters for Prometheus: what the engine counts, and what only the HTTP side knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from prosg.serving.statistics import EngineStatistics

__all__ = ["CONTENT_TYPE", "HttpMetrics", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
COUNTERS = {
    "submitted": "Answers that were asked for",
    "refused": "Answers that found the queue full",
    "encoded": "Prompts that were encoded to be stored",
    "read_tokens": "Tokens of prompts that were read",
    "cached_tokens": "Tokens of prompts that were found in the cache instead",
    "written_tokens": "Tokens of answers, end tokens left out",
    "steps": "Steps of decoding, whatever the rows in them",
    "row_steps": "Rows in all steps of decoding together",
    "cache_hits": "Prompts whose end, or the end of a part of them, was found in the cache",
    "cache_misses": "Prompts of which nothing was",
}
GAUGES = {
    "waiting": "Answers that wait",
    "reading": "Answers whose prompts are being read",
    "rows": "Answers that are being written",
    "cache_bytes": "Bytes of the cache in memory",
    "cache_entries": "Prompts in the cache in memory",
    "disk_bytes": "Bytes of the cache on disk",
    "disk_entries": "Prompts in the cache on disk",
}
"""By field of `EngineStatistics`."""


class HttpMetrics:
    """Counters of HTTP requests. Labels are of a fixed few values, and none names a key or a prompt."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "prosg_http_requests", "HTTP requests", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "prosg_http_request_seconds",
            "Seconds from a request to the end of its reply",
            ("route",),
            registry=self.registry,
            buckets=SECONDS,
        )

    def text(self) -> bytes:
        """All counters as Prometheus reads them."""
        return bytes(generate_latest(self.registry))


class Metrics(HttpMetrics):
    """The counters of one server."""

    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        """`statistics` tells what the engine has counted."""
        super().__init__()
        self.registry.register(_EngineCollector(statistics))
        self.stored = Counter("prosg_prompts_stored", "Prompts stored", ("source",), registry=self.registry)
        self.used = Counter(
            "prosg_prompts_used",
            "Stored prompts that requests named, by where they were",
            ("found",),
            registry=self.registry,
        )


class _EngineCollector:
    """Asks the engine when somebody looks."""

    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        counted = self._statistics()
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"prosg_{name}", text, value=getattr(counted, name))
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"prosg_{name}", text, value=getattr(counted, name))
        finished = CounterMetricFamily("prosg_finished", "Answers that ended, by reason", labels=["reason"])
        for reason, number in counted.finished.items():
            finished.add_metric([reason], number)
        yield finished
        seconds = counted.first_token
        bounds = [*map(str, seconds.bounds), "+Inf"]
        yield HistogramMetricFamily(
            "prosg_first_token_seconds",
            "Seconds from an answer's request to its first token",
            buckets=[*zip(bounds, seconds.cumulative(), strict=True)],
            sum_value=seconds.total,
        )
