"""A real gateway on a free port for each test, and clients that are closed after it.

Tests speak to it over sockets only, so they hold for every implementation of a transport.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config
from gateway.server import Gateway
from tests.transport.client import Clients


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "settings(**sections): change keys of the gateway's configuration"
    )
    config.addinivalue_line("markers", "jwt_settings(**keys): change keys of auth.jwt")
    config.addinivalue_line("markers", "webhook(**keys): change keys of both webhooks")
    config.addinivalue_line("markers", "expects_warnings: warnings in the log are no fault")
    config.addinivalue_line("markers", "expects_errors: neither are errors without a traceback")


@pytest.fixture
def websockets(request: pytest.FixtureRequest) -> str:
    """Who speaks websocket in the gateway; a module asks for both by WEBSOCKETS."""
    return getattr(request, "param", "") or Config().server.websocket


@pytest.fixture
def settings(request: pytest.FixtureRequest, websockets: str) -> Config:
    """The default configuration on a free port, changed by the test's `settings` marks."""
    server = {"port": 0, "shutdown_grace": 0, "websocket": websockets}
    # A key that is given need not be written to the disk.
    config = change(Config(), server=server, resume={"secret_keys": ("k" * 40,)})
    for mark in reversed(list(request.node.iter_markers("settings"))):
        config = change(config, **mark.kwargs)
    return config


def change(config: Config, **sections: dict[str, Any]) -> Config:
    changed = {
        name: dataclasses.replace(getattr(config, name), **keys) for name, keys in sections.items()
    }
    return dataclasses.replace(config, **changed)


@pytest.fixture
def gateway(io_loop: IOLoop, settings: Config, tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(settings, tmp_path / "state", {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


async def nothing_runs() -> None:
    """Wait until the only task is this one: what a gateway started, it ends."""
    async with asyncio.timeout(3):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


@pytest.fixture
def http_server(gateway: Gateway) -> Gateway:
    """Take the place of pytest-tornado's server: the gateway brings its own."""
    return gateway


@pytest.fixture
def base_url(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


@pytest.fixture
def clients(io_loop: IOLoop, base_url: str) -> Iterator[Clients]:
    clients = Clients(base_url)
    yield clients
    io_loop.run_sync(clients.close)


@pytest.fixture(autouse=True)
def _quiet_log(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Unexpected log output fails the test; a traceback always does."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.records]
    least = logging.ERROR if request.node.get_closest_marker("expects_warnings") else logging.WARN
    if request.node.get_closest_marker("expects_errors"):
        least = logging.CRITICAL
    loud = [record for record in records if record.levelno >= least or record.exc_info]
    assert not loud, "\n".join(f"{record.name}: {record.getMessage()}" for record in loud)
