"""Several gateways that know of each other, and clients that are sent to any of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gateway.nodes import NodeId
from gateway.server import Gateway
from tests.transport.client import Clients, Polling


class Addresses(dict[str, str]):
    """Internal addresses by node."""


class FixedDirectory:
    """What a node is told of the others."""

    alone = False
    in_touch = True

    def __init__(self, node: str, addresses: Addresses) -> None:
        self.id = NodeId(node)
        self._addresses = addresses

    def announce(self, address: str) -> None:
        self._addresses[self.id] = address

    def address_of(self, node: NodeId) -> str | None:
        return self._addresses.get(node)


def url(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


class AnyNode(Clients):
    """Clients whose requests go to one node after the other."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self._urls: Iterator[str] = itertools.cycle(map(url, gateways))
        super().__init__(next(self._urls))

    @property
    def url(self) -> str:
        return next(self._urls)

    @url.setter
    def url(self, value: str) -> None:
        pass


def moved(link: object, clients: Clients) -> Polling:
    """Have a polling session go on by another node from now on."""
    assert isinstance(link, Polling)
    link._clients._opened.remove(link)
    link._clients = clients
    clients._opened.append(link)
    return link


async def polling_through(first: Clients, then: Clients) -> Polling:
    """Open a session at one node; go on by another."""
    return moved(await first.polling(), then)
