"""Metrics in Prometheus' text format; one registry for each gateway, none global."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class Counters(defaultdict[str, int]):
    """A counter for each value of one label: a dictionary, for the hot path counts in it.

    prometheus_client's own counters take a lock and several calls for each message.
    """

    # prometheus_client keeps its collectors in a dictionary.
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, name: str, text: str, label: str) -> None:
        super().__init__(int)
        self._about = (f"gateway_{name}", text, label)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Hand the counts to prometheus_client."""
        name, text, label = self._about
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in sorted(self.items()):
            family.add_metric([value], count)
        yield family


class Metrics:
    """The gateway's counters and gauges, by their metric names without the prefix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        #: Accepted messages: delivered, queued, dropped or duplicate. Delivery counts in it.
        self.messages = self._counters("messages", "Messages by status of their receipt", "status")
        self._resumes = self._counters("resumes", "Accepted CONNECTs by outcome", "outcome")
        self._refused_connects = self._counters(
            "refused_connects", "CONNECTs refused, by code", "code"
        )
        self._refused_requests = self._counters(
            "refused_requests", "Events of players refused, by code", "code"
        )
        self._limit_hits = self._counters(
            "limit_hits", "How often a limit of the YAML file was hit, by its key", "limit"
        )
        self._takeovers = self._counters(
            "takeovers", "Connections taken over by their session's next one, by means", "means"
        )
        self._closed = self._counters(
            "closed_connections", "Connections closed, by reason", "reason"
        )

        self._webhooks = self._counters(
            "webhooks", "Webhooks sent, attempts failed, and webhooks given up (dead)", "result"
        )
        self._api_calls = self._counters("api_calls", "Calls of the HTTP API by status", "status")
        self._dropped = self._counters(
            "dropped_messages",
            "Messages for a player that went before any of their sessions had confirmed them",
            "reason",
        )
        self._kept_volatile = self._counters(
            "kept_volatile", "Volatile messages kept for a connection, by why", "reason"
        )
        self._dropped_volatile = self._counters(
            "dropped_volatile", "Volatile messages that a connection never gets, by why", "reason"
        )

    def _counters(self, name: str, text: str, label: str) -> Counters:
        counters = Counters(name, text, label)
        self._registry.register(counters)
        return counters

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(f"gateway_{name}", text, registry=self._registry).set_function(read)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Callable[[float], None]:
        """Add a histogram; what is returned takes its observations."""
        return Histogram(f"gateway_{name}", text, registry=self._registry, buckets=buckets).observe

    def dropped(self, reason: str, count: int) -> None:
        """Count messages that went unread.

        They were `expired`, or `trimmed` or `refused` by a limit of the mailbox.
        """
        self._dropped[reason] += count

    def kept_volatile(self, reason: str) -> None:
        """Count a value kept for a connection that is `behind` or whose page is `hidden`."""
        self._kept_volatile[reason] += 1

    def dropped_volatile(self, reason: str, count: int = 1) -> None:
        """Count messages that a connection never gets.

        They came while it was `behind` or `hidden`, or were kept and then `conflated` (a newer
        one took their place), pushed out by a `limit`, or left over when it `closed`.
        """
        self._dropped_volatile[reason] += count

    def resume(self, outcome: str) -> None:
        """Count an accepted CONNECT."""
        self._resumes[outcome] += 1

    def refused_connect(self, code: str) -> None:
        """Count a refused CONNECT."""
        self._refused_connects[code] += 1

    def refused_request(self, code: str) -> None:
        """Count a refused event."""
        self._refused_requests[code] += 1

    def api_call(self, status: int) -> None:
        """Count a call of the HTTP API by the HTTP status of its answer."""
        self._api_calls[str(status)] += 1

    def webhook(self, result: str) -> None:
        """Count an attempt to send a webhook (`sent`, `failed`), or one given up (`dead`)."""
        self._webhooks[result] += 1

    def limit_hit(self, limit: str) -> None:
        """Count that the limit with this YAML key was hit."""
        self._limit_hits[limit] += 1

    def takeover(self, means: str) -> None:
        """Count a takeover, by `pid` or by `token`."""
        self._takeovers[means] += 1

    def closed(self, reason: str) -> None:
        """Count a closed connection; reasons of Engine.IO are in words, labels are not."""
        self._closed[reason.replace(" ", "_")] += 1

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
