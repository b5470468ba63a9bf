"""Marionette, the protocol by which Firefox is driven.

By hand, because Mozilla's own client does not import on Python 3.13: JSON arrays behind their
length, `[0, number, command, parameters]` answered by `[1, number, error, result]`.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.e2e.browsers.interface import WAIT_SECONDS

_CHUNK: Final = 65536
_MAX_LENGTH_DIGITS: Final = 10


class MarionetteError(Exception):
    """Firefox could not do what it was asked to."""


class Marionette:
    """A session with the Firefox that listens on this port."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        try:
            greeting = self._receive()
            assert greeting["marionetteProtocol"] == 3, greeting
            milliseconds = int(WAIT_SECONDS * 1000)
            timeouts = {"script": milliseconds, "pageLoad": milliseconds, "implicit": 0}
            self.send("WebDriver:NewSession", capabilities={"timeouts": timeouts})
        except BaseException:
            self.close()
            raise

    def send(self, command: str, **parameters: object) -> Any:
        """Return the answer to a command. Raises MarionetteError."""
        number = next(self._numbers)
        packet = json.dumps([0, number, command, parameters]).encode()
        self._socket.sendall(b"%d:%b" % (len(packet), packet))
        kind, answered, error, result = self._receive()
        assert (kind, answered) == (1, number)
        if error is not None:
            raise MarionetteError(f"{command}: {error['error']}: {error['message']}")
        if isinstance(result, dict) and result.keys() == {"value"}:
            return result["value"]
        return result

    @contextmanager
    def in_browser(self) -> Iterator[None]:
        """Meanwhile scripts run in the browser's own window, not in a page."""
        self.send("Marionette:SetContext", value="chrome")
        try:
            yield
        finally:
            self.send("Marionette:SetContext", value="content")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _receive(self) -> Any:
        while (end := self._buffer.find(b":")) < 0:
            assert len(self._buffer) < _MAX_LENGTH_DIGITS, bytes(self._buffer)
            self._read()
        size = int(self._buffer[:end])
        del self._buffer[: end + 1]
        while len(self._buffer) < size:
            self._read()
        packet = json.loads(self._buffer[:size])
        del self._buffer[:size]
        return packet

    def _read(self) -> None:
        chunk = self._socket.recv(_CHUNK)
        if not chunk:
            raise MarionetteError("Firefox has hung up")
        self._buffer += chunk
