"""Clients cannot fill the log: their faults are told to them, not to the operator."""

from __future__ import annotations

import logging
from types import TracebackType

from tornado.web import HTTPError, RequestHandler

logger = logging.getLogger(__name__)


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
