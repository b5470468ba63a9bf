"""What is counted when somebody asks for the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

from gateway.metrics import Counters, Metrics
from gateway.registry import Registry
from gateway.store import Store


class Connection(Protocol):
    """An Engine.IO connection, as far as it is measured."""

    @property
    def buffered(self) -> int:
        """Bytes that are sent but not gone yet."""


class Engine(Protocol):
    """All of them."""

    send_budget: float

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Connection]: ...


def heard_from_nodes(metrics: Metrics) -> Counters:
    """Add the counter of what other nodes tell this one."""
    return metrics.counters(
        "bus_messages", "What other nodes have told this one, by kind", "kind", ("message",)
    )


def add_gauges(metrics: Metrics, engine: Engine, registry: Registry[Any], store: Store) -> None:
    """Add what is counted when somebody asks."""
    gauge = metrics.gauge
    gauge("connections", "Open Engine.IO connections", lambda: len(engine))
    gauge("player_connections", "Connections of players", lambda: len(registry))
    gauge("players", "Players with a connection", lambda: registry.players)
    gauge("event_loop_tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks()))
    gauge("sessions", "Sessions kept", lambda: store.session_count)
    gauge("store_available", "1 while the store can be written", lambda: store.available)
    gauge("rooms", "Rooms that have members", lambda: len(store.memberships))
    gauge(
        "room_members",
        "Members of all rooms; a player counts once for each room",
        lambda: store.memberships.count,
    )
    gauge("mailbox_bytes", "Size of all mailboxes", lambda: store.bytes)
    gauge("mailbox_messages", "Messages in all mailboxes", lambda: store.message_count)
    nodes = store.nodes
    gauge("nodes", "Nodes that are alive, this one included", lambda: nodes.state.live)
    gauge("dead_nodes", "Nodes that died lately without leaving", lambda: nodes.state.dead)
    gauge(
        "partitions_owned",
        "Partitions of the store whose duties are this node's",
        lambda: nodes.state.duties,
    )
    gauge(
        "pruned_routes",
        "Routes to nodes that were taken away because they did not hear",
        lambda: nodes.state.pruned,
    )
    gauge(
        "partitions_behind",
        "Partitions that this node does not hear, or has not caught up with",
        lambda: nodes.state.behind,
    )
    gauge(
        "send_buffer_bytes",
        "Bytes sent to clients that the network has not taken yet",
        lambda: sum(connection.buffered for connection in engine),
    )
    gauge(
        "slow_consumers",
        "Connections over their send budget",
        lambda: sum(each.buffered > engine.send_budget for each in engine),
    )
