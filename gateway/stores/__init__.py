"""The stores: implementations of gateway/store.py, chosen by `store.url`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.errors import ConfigError
from gateway.messages import TrueId
from gateway.metrics import Counters
from gateway.store import Store, StoreLimits
from gateway.store_url import RedisUrl, parse_store_url
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.building import build_redis_store
from gateway.stores.sampling import OnLatency, ignore_latency
from gateway.stores.sqlite import SqliteStore

OnReplaced = Callable[[Callable[[TrueId], bool]], None]


def build_store(
    url: str,
    limits: StoreLimits,
    state_dir: Path,
    on_dropped: Callable[[str, int], None],
    on_replaced: OnReplaced = lambda concerns: None,
    on_webhooks: Callable[[int, int], None] = lambda added, given_up: None,
    on_latency: OnLatency = ignore_latency,
    *,
    node_lease: float = 5.0,
    presence_grace: float = 30.0,
    heard: Counters | None = None,
    on_webhooks_lost: Callable[[Sequence[int]], None] = lambda numbers: None,
    on_limit: OnLimit = ignore_limit,
    password: str = "",
) -> Store:
    """Return the store that the URL names; it is not open yet.

    `on_dropped` is told of messages that went unread: see MemoryStore; `on_replaced` when the
    store, or a part of it, has become another one, and nothing holds any more that was read from
    it: it takes a function that tells whether that is about a player; `on_webhooks` how many
    webhooks are new, and how many were given up for lack of room; `on_latency` how long the store
    took for a message, see Sampler; `on_webhooks_lost` the numbers of webhooks that another node
    sends from now on; `on_limit` which bounds were hit. `node_lease` and `presence_grace` (seconds)
    and `heard` are for stores of several nodes, `password` for Redis when its URL has none. Raises
    ConfigError for a URL that names no store.
    """
    try:
        parsed = parse_store_url(url)
    except ValueError as error:
        raise ConfigError(f"store.url: {error}") from None
    if isinstance(parsed, RedisUrl):
        return build_redis_store(
            replace(parsed, password=password) if password else parsed,
            limits,
            nonces(),
            on_dropped,
            on_replaced,
            on_webhooks,
            on_latency,
            node_lease=node_lease,
            presence_grace=presence_grace,
            heard=heard,
            on_webhooks_lost=on_webhooks_lost,
            on_limit=on_limit,
        )
    if parsed.kind == "memory":
        return MemoryStore(
            limits, secrets.token_hex(4), nonces(), on_dropped, on_webhooks, on_latency, on_limit
        )
    return SqliteStore(
        state_dir / parsed.path,
        parsed.synchronous,
        limits,
        nonces(),
        on_dropped,
        on_replaced=lambda: on_replaced(_everybody),
        on_webhooks=on_webhooks,
        on_latency=on_latency,
        on_limit=on_limit,
    )


def _everybody(true_id: TrueId) -> bool:
    return True


def nonces() -> Iterator[int]:
    """Yield 40-bit nonces; they tell messages apart and keep no secret.

    A Weyl sequence from a random start: as good as random for that, at a tenth of the cost.
    """
    step = secrets.randbits(40) | 1
    state = secrets.randbits(40)
    while True:
        state = (state + step) & 0xFF_FFFF_FFFF
        yield state
