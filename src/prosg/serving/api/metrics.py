"""Counters for Prometheus: what the engine counts, and what only the HTTP side knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The counters of one server. Labels are of a fixed few values, and none names a key or a prompt."""

    def __init__(self, statistics: Callable[[], Any]) -> None:
        """`statistics` tells what the engine has counted."""
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(statistics))
        self.requests = Counter(
            "prosg_http_requests", "HTTP requests", ("route", "method", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "prosg_http_request_seconds",
            "Seconds from a request to the end of its reply",
            ("route",),
            registry=self._registry,
            buckets=SECONDS,
        )
        self.first_token = Histogram(
            "prosg_first_token_seconds",
            "Seconds from a request to the first text of its answer",
            registry=self._registry,
            buckets=SECONDS,
        )
        self.finished = Counter("prosg_answers", "Answers that ended, by reason", ("reason",), registry=self._registry)
        self.prompt_tokens = Counter(
            "prosg_answered_prompt_tokens",
            "Tokens before answers that ended, stored prompts not counted",
            registry=self._registry,
        )
        self.completion_tokens = Counter(
            "prosg_answered_completion_tokens", "Tokens of answers that ended", registry=self._registry
        )
        self.stored = Counter("prosg_prompts_stored", "Prompts stored", ("source",), registry=self._registry)

    def text(self) -> bytes:
        """All counters as Prometheus reads them."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Asks the engine when somebody looks."""

    def __init__(self, statistics: Callable[[], Any]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        counted = self._statistics()
        yield GaugeMetricFamily("x", "x", value=1)
