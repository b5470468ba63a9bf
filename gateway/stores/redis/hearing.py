"""Which partitions' channels are heard, and from which server they were heard last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.stores.redis.handshake import Server

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Is told of partitions: see Redis."""

    on_lost: Callable[[frozenset[int]], None]
    on_restored: Callable[[frozenset[int], bool], None]


class Hearing:
    """Tells a listener of partitions.

    A server is the same if its process and its history of writes are: it was neither started
    again nor replaced meanwhile, and has not been a replica.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._heard: set[int] = set()
        self._servers: dict[int, tuple[str, str]] = {}
        self._quiet = True

    def opened(self) -> None:
        """From now on it is told; what is heard by now is the start, and nothing new."""
        self._quiet = False

    def lost(self, partitions: Iterable[int]) -> None:
        """These are not heard any more."""
        lost = frozenset(self._heard.intersection(partitions))
        self._heard -= lost
        if lost:
            self._tell(self._listener.on_lost, lost)

    def restored(self, partitions: Iterable[int], server: Server) -> None:
        """These are heard, by this server."""
        identity = (server.run_id, server.history)
        new = frozenset(partitions) - self._heard
        same = frozenset(each for each in new if self._servers.get(each) == identity)
        self._heard |= new
        self._servers.update(dict.fromkeys(new, identity))
        for which, is_same in ((same, True), (new - same, False)):
            if which:
                self._tell(self._listener.on_restored, which, is_same)

    def _tell(self, told: Callable[..., None], *what: object) -> None:
        if not self._quiet:
            tell(told, *what)


def tell(told: Callable[..., None], *what: object) -> None:
    """Tell somebody of a change: what goes wrong there is logged, and keeps nobody from more."""
    try:
        told(*what)
    except Exception:
        logger.exception("a change of the store's links could not be handled")
