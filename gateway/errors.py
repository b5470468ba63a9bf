"""The error tree, and the one table of codes that go on the wire.

A client sees a code and a sentence written for it; it never sees the text of an
exception that the gateway did not raise itself.
"""

from __future__ import annotations

from typing import Final

#: Codes of a refused CONNECT (`44`): may the client try again as it is?
CONNECT_CODES: Final[dict[str, bool]] = {
    "bad_credentials": False,
    "token_expired": False,
    "token_invalid": False,
    "token_reused": False,
    "session_revoked": False,
    "banned": False,
    "rate_limited": True,
    "server_full": True,
    "draining": True,
    "unsupported": False,
    "unavailable": True,
}

#: Codes of a refused event, in its receipt, its ack or the event `error`.
REQUEST_CODES: Final[frozenset[str]] = frozenset(
    {
        "bad_request",
        "unknown_target",
        "forbidden",
        "too_large",
        "rate_limited",
        "mailbox_full",
        "not_member",
        "unavailable",
    }
)


class GatewayError(Exception):
    """Base of all errors that the gateway raises on purpose."""


class ConfigError(GatewayError):
    """The configuration cannot be used; the text names file, line, key and the fix."""


class ConnectRefused(GatewayError):
    """A CONNECT is refused: PROTOCOL 1.1.

    `retry_after` is in seconds. With `cut` the connection is closed without a word: a stock
    client that came back by itself then tries again, which it does not after a refusal. Raises
    ValueError for a code that is not in CONNECT_CODES.
    """

    def __init__(
        self, code: str, message: str, retry_after: float | None = None, *, cut: bool = False
    ) -> None:
        if code not in CONNECT_CODES:
            raise ValueError(f"unknown connect code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.reconnect = CONNECT_CODES[code]
        self.retry_after = retry_after
        self.cut = cut

    def payload(self) -> dict[str, object]:
        """Return what goes into the CONNECT_ERROR packet."""
        return {
            "message": self.message,
            "data": {
                "code": self.code,
                "reconnect": self.reconnect,
                "retry_after": self.retry_after,
            },
        }


class RequestRefused(GatewayError):
    """An event of a connected player is refused: PROTOCOL 1.3.

    `field` names the offending key of the payload, `retry_after` is in seconds. Raises
    ValueError for a code that is not in REQUEST_CODES.
    """

    def __init__(
        self,
        code: str,
        message: str,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        if code not in REQUEST_CODES:
            raise ValueError(f"unknown request code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after

    def payload(self) -> dict[str, object]:
        """Return the `error` object of a receipt or ack."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        if self.retry_after is not None:
            error["retry_after"] = self.retry_after
        return error


class ProtocolViolation(GatewayError):
    """The peer broke the Engine.IO or Socket.IO protocol; its connection is closed."""


class StoreUnavailable(GatewayError):
    """The store did not accept or return what was asked; nothing was changed."""
