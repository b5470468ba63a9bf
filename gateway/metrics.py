"""Metrics in Prometheus' text format; one registry for each gateway, none global."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class Metrics:
    """The gateway's counters and gauges, by their metric names without the prefix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._messages = self._counter("messages", "Messages by status of their receipt", "status")
        self._resumes = self._counter("resumes", "Accepted CONNECTs by outcome", "outcome")
        self._refused_connects = self._counter(
            "refused_connects", "CONNECTs refused, by code", "code"
        )
        self._refused_requests = self._counter(
            "refused_requests", "Events of players refused, by code", "code"
        )
        self._limit_hits = self._counter(
            "limit_hits", "How often a limit of the YAML file was hit, by its key", "limit"
        )
        self._takeovers = self._counter(
            "takeovers", "Connections taken over by their session's next one, by means", "means"
        )
        self._closed = self._counter(
            "closed_connections", "Connections closed, by reason", "reason"
        )

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"gateway_{name}", text, [label], registry=self._registry)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(f"gateway_{name}", text, registry=self._registry).set_function(read)

    def message(self, status: str) -> None:
        """Count an accepted message: delivered, queued, dropped or duplicate."""
        self._messages.labels(status).inc()

    def resume(self, outcome: str) -> None:
        """Count an accepted CONNECT."""
        self._resumes.labels(outcome).inc()

    def refused_connect(self, code: str) -> None:
        """Count a refused CONNECT."""
        self._refused_connects.labels(code).inc()

    def refused_request(self, code: str) -> None:
        """Count a refused event."""
        self._refused_requests.labels(code).inc()

    def limit_hit(self, limit: str) -> None:
        """Count that the limit with this YAML key was hit."""
        self._limit_hits.labels(limit).inc()

    def takeover(self, means: str) -> None:
        """Count a takeover, by `pid` or by `token`."""
        self._takeovers.labels(means).inc()

    def closed(self, reason: str) -> None:
        """Count a closed connection."""
        self._closed.labels(reason).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
