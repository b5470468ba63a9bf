"""Guests: anonymous players, a new `true_id` at every login without a resume token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.auth import METHODS, Identity, clean_name
from gateway.errors import ConnectRefused
from gateway.messages import TrueId

_DEFAULT_NAME: Final = "guest"


class GuestAuthenticator:
    """Lets everybody in who sends `guest: true`, under an optional `name`."""

    __slots__ = ("_max_name_bytes", "_new_id")

    method: Final = "guest"

    def __init__(self, max_name_bytes: int, new_id: Callable[[], TrueId]) -> None:
        """`max_name_bytes` counts UTF-8 bytes, 0 means no limit; `new_id` makes fresh ids."""
        self._max_name_bytes = max_name_bytes
        self._new_id = new_id

    def claims(self, auth: Mapping[str, object]) -> bool:
        """Return whether the key `guest` is there, whatever its value."""
        return any(key in auth for key in METHODS[self.method].keys)

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return a new player. A missing or null name becomes "guest".

        Raises ConnectRefused with `bad_credentials` unless `guest` is exactly true and the name
        is one that `clean_name` accepts.
        """
        if auth.get("guest") is not True:
            raise ConnectRefused(
                "bad_credentials", "guest must be true; leave it out for another auth method"
            )
        name = auth.get("name")
        cleaned = _DEFAULT_NAME if name is None else clean_name(name, self._max_name_bytes)
        return Identity(self._new_id(), cleaned, self.method)

    async def still_valid(self, true_id: TrueId) -> bool:
        """Return True: a guest is whoever has the token."""
        return True
