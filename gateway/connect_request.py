"""What a client sends with its CONNECT (PROTOCOL 1.1), checked for types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import ConnectRefused


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """The auth payload of a CONNECT, checked for types, and the client's address."""

    token: str | None
    pid: str | None
    offset: str | None
    recovery: bool
    credentials: Mapping[str, object]
    address: str

    @staticmethod
    def parse(auth: object, address: str) -> ConnectRequest:
        """Raises ConnectRefused (`bad_credentials`) that names the offending key."""
        if auth is None:
            auth = {}
        if not isinstance(auth, dict):
            raise ConnectRefused("bad_credentials", "auth must be an object")
        texts: dict[str, str | None] = {}
        for key in ("token", "pid", "offset"):
            value = auth.get(key)
            if value is not None and not isinstance(value, str):
                raise ConnectRefused("bad_credentials", f"auth.{key} must be a string")
            texts[key] = value
        recovery = auth.get("recovery", True)
        if not isinstance(recovery, bool):
            raise ConnectRefused("bad_credentials", "auth.recovery must be true or false")
        rest = {key: value for key, value in auth.items() if key not in (*texts, "recovery")}
        return ConnectRequest(
            texts["token"], texts["pid"], texts["offset"], recovery, rest, address
        )
