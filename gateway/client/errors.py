"""Why something could not be done: one class for each kind, a `code` for each reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Codes of refused events that say "later"; others are final.
LATER: Final = frozenset({"unavailable", "rate_limited"})


class ClientError(Exception):
    """Base of all errors of this package. `code` is for programs, `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class ConnectRefused(ClientError):
    """The gateway refuses this client for good: `bad_credentials`, `banned`, `unsupported`, …

    `retry_after` is in seconds, None if the gateway says nothing of it.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class RequestRefused(ClientError):
    """The gateway refuses one event; the connection goes on.

    `field` is the key of the payload that was refused. `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: str,
        message: str,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.field = field
        self.retry_after = retry_after

    @staticmethod
    def of(error: object) -> RequestRefused:
        """Read the `error` of an answer; whatever it is, the result says what is known."""
        known: Mapping[str, Any] = error if isinstance(error, dict) else {}
        code, message, field = known.get("code"), known.get("message"), known.get("field")
        return RequestRefused(
            code if isinstance(code, str) else "unknown",
            message if isinstance(message, str) else "the gateway gave no reason",
            field if isinstance(field, str) else None,
            seconds(known.get("retry_after")),
        )


class ClientClosed(ClientError):
    """The client was closed (`closed`), or logged out (`logged_out`)."""


class PlayerChanged(ClientError):
    """The gateway no longer knew the player and made another one (`player_changed`).

    What had no receipt is not sent in the new player's name: it may have arrived before.
    """

    def __init__(self) -> None:
        super().__init__("player_changed", "the player is another one now")


class QueueFull(ClientError):
    """So many messages or requests wait already (`queue_full`)."""

    def __init__(self, limit: int) -> None:
        super().__init__("queue_full", f"{limit} wait already")


class TimedOut(ClientError, TimeoutError):
    """No answer came in time (`timeout`). What was sent may have arrived."""

    def __init__(self, event: str) -> None:
        super().__init__("timeout", f"no answer to {event} in time")


class LinkLost(ClientError):
    """The connection ended before an answer came; the client asks again over the next one."""

    def __init__(self, reason: str) -> None:
        super().__init__("link_lost", reason)


class StorageInUse(ClientError):
    """Another client that is alive uses the same storage (`storage_in_use`)."""


class StorageMismatch(ClientError):
    """The storage belongs to a session of another gateway (`storage_mismatch`)."""


def seconds(value: object) -> float | None:
    """Return a duration that the gateway named, None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124
        return None
    return max(0.0, min(float(value), 86_400.0))
