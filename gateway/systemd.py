"""The gateway as a systemd service: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

Without systemd nothing is told and nothing is inherited.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

from gateway.errors import ConfigError

logger = logging.getLogger(__name__)

_FIRST_DESCRIPTOR: Final = 3
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Notifier:
    """Sends to the socket that systemd names in `NOTIFY_SOCKET`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of Linux' abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""

    def notify(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`; a failure is logged, never raised."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket:
                notify_socket.connect(self._address)
                notify_socket.sendall("\n".join(assignments).encode())
        except OSError as error:
            logger.warning("systemd could not be told %s: %s", assignments, error)

    def status(self, text: str, *assignments: str) -> None:
        """Send the line that `systemctl status` shows, if it is new or comes with assignments."""
        line = " ".join(text.split())
        if line != self._status or assignments:
            self._status = line
            self.notify(*assignments, f"STATUS={line}")


def watchdog_seconds(environ: Mapping[str, str]) -> float:
    """Return after how many seconds without `WATCHDOG=1` systemd restarts us; 0 is never."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0


def inherited_sockets(environ: Mapping[str, str]) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that systemd has opened for us, by `FileDescriptorName=`.

    Raises ConfigError for one that is no listening stream socket.
    """
    number = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not number.isdecimal():
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(number)):
        name = names[index] if index < len(names) else ""
        descriptor = _FIRST_DESCRIPTOR + index
        os.set_inheritable(descriptor, False)
        try:
            inherited = socket.socket(fileno=descriptor)
            listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            raise _no_listener(name) from None
        stream = inherited.family in _FAMILIES and inherited.type == socket.SOCK_STREAM
        if not listens or not stream:
            raise _no_listener(name)
        inherited.setblocking(False)
        found.setdefault(name, []).append(inherited)
    return found


def _no_listener(name: str) -> ConfigError:
    return ConfigError(
        f"the socket unit's {name or 'socket'} is no listening stream socket; "
        "give it ListenStream= with an address and a port or with a path, and Accept=no"
    )
