"""Builds the redis store of a gateway, which is one node of several."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from gateway.messages import TrueId
from gateway.metrics import Counters
from gateway.nodes import NodeId
from gateway.store import StoreLimits
from gateway.store_url import RedisUrl
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.redis import bus
from gateway.stores.redis.client import Redis
from gateway.stores.redis.nodes import RedisNodes
from gateway.stores.redis.store import RedisStore
from gateway.stores.sampling import OnLatency

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 8


def new_node_id() -> NodeId:
    """Return an id that no other node has."""
    return NodeId("".join(secrets.choice(_DIGITS) for _ in range(_ID_LENGTH)))


def build_redis_store(
    url: RedisUrl,
    limits: StoreLimits,
    nonces: Iterator[int],
    on_dropped: Callable[[str, int], None],
    on_replaced: Callable[[Callable[[TrueId], bool]], None],
    on_webhooks: Callable[[int, int], None],
    on_latency: OnLatency,
    *,
    node_lease: float,
    presence_grace: float,
    heard: Counters | None,
    on_webhooks_lost: Callable[[Sequence[int]], None],
    on_limit: OnLimit = ignore_limit,
) -> RedisStore:
    """Return the store, not open yet: see RedisStore and RedisNodes. Raises ConfigError."""
    redis = Redis(url, on_limit=on_limit)
    node = new_node_id()
    counts = defaultdict(int) if heard is None else heard
    nodes = RedisNodes(redis, node, node_lease, counts, on_limit)
    store = RedisStore(
        redis,
        limits,
        node,
        nonces,
        on_dropped,
        on_replaced,
        on_webhooks,
        on_latency,
        nodes.directory,
        owned=(),
        on_webhooks_lost=on_webhooks_lost,
        nodes=nodes,
        presence_grace=presence_grace,
        on_limit=on_limit,
    )
    nodes.ownership.on_won.append(lambda partition: store.own_partitions((partition,)))
    nodes.ownership.on_lost.append(lambda partition: store.disown_partitions((partition,)))
    nodes.on(bus.OUTBOX, lambda partition, fields: store.on_outbox_written(partition))
    for kind in (bus.PRESENCE, bus.DROPPED):
        nodes.on(kind, partial(store.presence.on_told, kind))
    return store
