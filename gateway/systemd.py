"""Tells systemd how the service is (sd_notify(3)); without systemd it does nothing."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """Sends to the socket that systemd names in `NOTIFY_SOCKET`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of Linux' abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address

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
