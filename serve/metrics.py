"""Counters and timings of one ingress replica, in Prometheus' format."""

from __future__ import annotations

from chatsearch.converse.dialogue import Retrieval
from chatsearch.converse.events import Done
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServiceMetrics:
    """All metrics of the HTTP layer. Labels have few values: routes, never paths; reasons, never messages."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "chatsearch_http_requests_total", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "chatsearch_http_request_seconds",
            "Time to the last byte.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge("chatsearch_http_in_flight", "Requests being answered.", registry=self._registry)
        self._answers = Counter(
            "chatsearch_answers_total", "Answers of the model, by how they ended.", ["ended"], registry=self._registry
        )
        self._retrievals = Counter(
            "chatsearch_retrievals_total",
            "Retrievals: decided by the model, or forced by the request.",
            ["decision"],
            registry=self._registry,
        )
        self._tokens = Counter(
            "chatsearch_tokens_total", "Positions read and tokens made.", ["direction"], registry=self._registry
        )
        self.picks = Counter(
            "chatsearch_picks_total", "Candidates picked, by rank up to 10.", ["rank"], registry=self._registry
        )

    def answered(self, done: Done) -> None:
        """Count one finished answer."""
        self._answers.labels(done.reason).inc()
        self._tokens.labels("prompt").inc(done.num_prompt_tokens)
        self._tokens.labels("new").inc(done.num_new_tokens)

    def retrieved(self, retrieval: Retrieval) -> None:
        """Count one retrieval."""
        self._retrievals.labels("forced" if retrieval.forced else "free").inc()

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self._registry)
