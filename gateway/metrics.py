"""Metrics in Prometheus' text format; one registry for each gateway, none global."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gateway.errors import CONNECT_CODES, REQUEST_CODES
from gateway.session import Outcome

#: What becomes of a message, by its kind.
_STATUSES: Final = {
    "message": ("delivered", "queued", "duplicate"),
    "publish": ("delivered", "queued", "duplicate"),
    "volatile": ("delivered", "dropped"),
}
_REPLAYED: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
#: A commit takes milliseconds, a disk that is full or busy seconds.
_LATENCIES: Final = (0.00001, 0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)


class Counters(defaultdict[str, int]):
    """A counter for each value of one label: a dictionary, for the hot path counts in it.

    prometheus_client's own counters take a lock and several calls for each message.
    """

    # prometheus_client keeps its collectors in a dictionary.
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, name: str, text: str, label: str, known: Iterable[str] = ()) -> None:
        super().__init__(int)
        # A series that appears with its first event has no rate at that event.
        self.update(dict.fromkeys(known, 0))
        self._about = (f"gateway_{name}", text, label)

    @property
    def name(self) -> str:
        """The metric's name, without the prefix."""
        return self._about[0].removeprefix("gateway_")

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Hand the counts to prometheus_client."""
        name, text, label = self._about
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in sorted(self.items()):
            family.add_metric([value], count)
        yield family


class MessageCounters:
    """Messages by kind and status: for each kind a dictionary to count in, for the hot path."""

    def __init__(self) -> None:
        self.message, self.publish, self.volatile = (
            dict.fromkeys(statuses, 0) for statuses in _STATUSES.values()
        )

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Hand the counts to prometheus_client."""
        text = "Messages by kind and status of their receipt; one to a room for each member"
        family = CounterMetricFamily("gateway_messages", text, labels=["kind", "status"])
        for kind in _STATUSES:
            for status, count in getattr(self, kind).items():
                family.add_metric([kind, status], count)
        yield family

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many there were by status, and by kind."""
        statuses: dict[str, int] = {}
        kinds: dict[str, int] = {}
        for kind in _STATUSES:
            for status, count in getattr(self, kind).items():
                statuses[status] = statuses.get(status, 0) + count
                kinds[kind] = kinds.get(kind, 0) + count
        return {"messages": statuses, "messages_by_kind": kinds}


class Metrics:
    """The gateway's counters and gauges, by their metric names without the prefix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._all_counters: list[Counters] = []
        self._gauges: dict[str, Callable[[], float]] = {}
        ProcessCollector(registry=self._registry)
        #: Accepted messages. Delivery counts in it.
        self.messages = MessageCounters()
        self._registry.register(self.messages)
        self._resumes = self.counters(
            "resumes", "Accepted CONNECTs by outcome", "outcome", get_args(Outcome)
        )
        self._replayed = self.histogram(
            "replayed_messages", "Messages that a player who came back had missed", _REPLAYED
        )
        self._refused_handshakes = self.counters(
            "refused_handshakes", "Requests of Engine.IO refused, by HTTP status", "status"
        )
        self._refused_connects = self.counters(
            "refused_connects", "CONNECTs refused, by code", "code", CONNECT_CODES
        )
        self._refused_requests = self.counters(
            "refused_requests", "Events of players refused, by code", "code", REQUEST_CODES
        )
        self._store_latency = Histogram(
            "gateway_store_latency_seconds",
            "From asking the store to keep a message to its answer; sampled",
            ["kind"],
            registry=self._registry,
            buckets=_LATENCIES,
        )
        self._limit_hits = self.counters(
            "limit_hits", "How often a limit of the YAML file was hit, by its key", "limit"
        )
        self._takeovers = self.counters(
            "takeovers",
            "Connections taken over by their session's next one, by means",
            "means",
            ("pid", "token"),
        )
        self._closed = self.counters(
            "closed_connections", "Connections closed, by reason", "reason", ("slow_consumer",)
        )
        self._webhooks = self.counters(
            "webhooks",
            "Webhooks sent, attempts failed, and webhooks given up (dead)",
            "result",
            ("sent", "failed", "dead"),
        )
        self._admin_logins = self.counters(
            "admin_logins",
            "Log-ins to the operator's page by result",
            "result",
            ("accepted", "refused", "rate_limited"),
        )
        self._api_calls = self.counters("api_calls", "Calls of the HTTP API by status", "status")
        self._dropped = self.counters(
            "dropped_messages",
            "Messages for a player that went before any of their sessions had confirmed them",
            "reason",
            ("expired", "trimmed", "refused", "lost"),
        )
        self._missed_publishes = self.counters(
            "missed_publishes",
            "Connections that another node's message did not reach and that read it from the store",
            "seen_by",
            ("offset", "head"),
        )
        self._kept_volatile = self.counters(
            "kept_volatile",
            "Volatile messages kept for a connection, by why",
            "reason",
            ("behind", "hidden"),
        )
        self._dropped_volatile = self.counters(
            "dropped_volatile",
            "Volatile messages that a connection never gets, by why",
            "reason",
            ("behind", "hidden", "conflated", "limit", "closed"),
        )

    def counters(self, name: str, text: str, label: str, known: Iterable[str] = ()) -> Counters:
        """Add a counter for each value of a label, 0 at first for `known`; who asks counts."""
        counters = Counters(name, text, label, known)
        self._registry.register(counters)
        self._all_counters.append(counters)
        return counters

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(f"gateway_{name}", text, registry=self._registry).set_function(read)
        self._gauges[name] = read

    def gauges(self, only: Container[str] | None = None) -> dict[str, float]:
        """Return what all gauges say now, or `only` these."""
        return {
            name: float(read())
            for name, read in self._gauges.items()
            if only is None or name in only
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what was counted so far: by the counter's name, then by its label's value.

        Messages come by status and, as `messages_by_kind`, by kind.
        """
        counts = {counters.name: dict(counters) for counters in self._all_counters}
        return {**self.messages.counts(), **counts}

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Callable[[float], None]:
        """Add a histogram; what is returned takes its observations."""
        return Histogram(f"gateway_{name}", text, registry=self._registry, buckets=buckets).observe

    def build_info(self, version: str, *, compiled: bool) -> None:
        """Say which build this is, and whether its hot modules are compiled."""
        about = {
            "version": version,
            "compiled": "yes" if compiled else "no",
            "python": platform.python_version(),
        }
        Info("gateway_build", "The build that runs", registry=self._registry).info(about)

    def store_latency(self, kind: str, seconds: float) -> None:
        """Take how long the store took for a message, by `message` or `publish`."""
        self._store_latency.labels(kind).observe(seconds)

    def dropped(self, reason: str, count: int) -> None:
        """Count messages that went unread.

        They were `expired`, `trimmed` or `refused` by a limit of the mailbox, or `lost` by the
        store after they had been acknowledged.
        """
        self._dropped[reason] += count

    def missed_publish(self, seen_by: str) -> None:
        """Count a connection that has to read what it was not told.

        It saw that by the `offset` of a message that came, or by the mailbox' `head` after its
        node had not heard others for a while.
        """
        self._missed_publishes[seen_by] += 1

    def kept_volatile(self, reason: str) -> None:
        """Count a value kept for a connection that is `behind` or whose page is `hidden`."""
        self._kept_volatile[reason] += 1

    def dropped_volatile(self, reason: str, count: int = 1) -> None:
        """Count messages that a connection never gets.

        They came while it was `behind` or `hidden`, or were kept and then `conflated` (a newer
        one took their place), pushed out by a `limit`, or left over when it `closed`.
        """
        self._dropped_volatile[reason] += count

    def resume(self, outcome: str, missed: int) -> None:
        """Count an accepted CONNECT, and what will be replayed to a player who came back."""
        self._resumes[outcome] += 1
        if outcome != "new":
            self._replayed(missed)

    def refused_handshake(self, status: int) -> None:
        """Count a request of Engine.IO that was refused by HTTP."""
        self._refused_handshakes[str(status)] += 1

    def refused_connect(self, code: str) -> None:
        """Count a refused CONNECT."""
        self._refused_connects[code] += 1

    def refused_request(self, code: str) -> None:
        """Count a refused event."""
        self._refused_requests[code] += 1

    def api_call(self, status: int) -> None:
        """Count a call of the HTTP API by the HTTP status of its answer."""
        self._api_calls[str(status)] += 1

    def admin_login(self, result: str) -> None:
        """Count a log-in to the operator's page: `accepted`, `refused` or `rate_limited`."""
        self._admin_logins[result] += 1

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
