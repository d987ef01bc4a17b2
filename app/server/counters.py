"""Counters of the server in the format that Prometheus reads. Knows names and numbers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from app.server.lanes import Lane
    from reader.records import Answer

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Counters:
    """Counters of one server, apart from those of others in this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "rag_requests", "Requests by route and status.", ("route", "method", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "rag_request_seconds", "Seconds a request took.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self._answers = Counter(
            "rag_answers", "Answers by reader and outcome.", ("reader", "outcome"), registry=self._registry
        )
        self._refused = Counter("rag_refused", "Questions for which there was no place.", registry=self._registry)

    def watch(self, lane: Lane) -> None:
        """Show how many jobs run and wait in a lane."""
        Gauge(
            f"rag_{lane.name}_taken", f"Jobs that run or wait in the lane {lane.name}.", registry=self._registry
        ).set_function(lambda: lane.taken)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"} else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answer(self, answer: Answer) -> None:
        """Count an answer by what came of it."""
        outcome = f"abstained-{answer.abstention}" if answer.abstained else "answered"
        self._answers.labels(answer.reader.name, outcome).inc()

    def refused(self) -> None:
        """Count a question for which there was no place."""
        self._refused.inc()

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
