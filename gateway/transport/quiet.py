"""Clients cannot fill the log: their faults are told to them, not to the operator."""

from __future__ import annotations

import logging
import re
from types import TracebackType
from typing import Final

from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, RequestHandler

logger = logging.getLogger(__name__)

#: No more digits: Python refuses to read thousands of them.
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


def declared_length(headers: HTTPHeaders) -> int:
    """Return what Content-Length says; 0 for what is none, which Tornado refuses itself."""
    length = headers.get("Content-Length", "0")
    return int(length) if _LENGTH.fullmatch(length) else 0


class QuietFaults(RequestHandler):
    """A handler that logs a refused request as debug, where Tornado warns."""

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log our own faults as errors, with a traceback."""
        if isinstance(value, HTTPError):
            # Not its URI: there may be a secret in it.
            request = self.request
            logger.debug("%s (%s): %d", request.method, request.remote_ip, value.status_code)
        else:
            super().log_exception(typ, value, tb)
