"""What a client logs in with when it has no token: see "Connecting" in the README."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Guest:
    """A new anonymous player."""

    name: str | None = None

    def payload(self) -> dict[str, Any]:
        """Return what goes with CONNECT."""
        return {"guest": True} if self.name is None else {"guest": True, "name": self.name}

    @property
    def account(self) -> str:
        """Which record of a storage is theirs."""
        return "guest"


@dataclass(frozen=True, slots=True)
class Password:
    """An account of the gateway's, with a password."""

    username: str
    password: str = field(repr=False)

    def payload(self) -> dict[str, Any]:
        """Return what goes with CONNECT."""
        return {"username": self.username, "password": self.password}

    @property
    def account(self) -> str:
        """Which record of a storage is theirs."""
        return f"password:{self.username}"


@dataclass(frozen=True, slots=True)
class Jwt:
    """A JWT of the game's identity provider; short-lived ones come from a function."""

    jwt: str = field(repr=False)

    def payload(self) -> dict[str, Any]:
        """Return what goes with CONNECT."""
        return {"jwt": self.jwt}

    @property
    def account(self) -> str:
        """Which record of a storage is theirs: only the gateway can tell."""
        return ""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys that the game's own webhook asks for."""

    keys: Mapping[str, Any] = field(repr=False)

    def payload(self) -> dict[str, Any]:
        """Return what goes with CONNECT."""
        return dict(self.keys)

    @property
    def account(self) -> str:
        """Which record of a storage is theirs: only the gateway can tell."""
        return ""


Credentials: TypeAlias = Guest | Password | Jwt | Keys
#: A function is asked at each connect for which there is no token.
Auth: TypeAlias = Credentials | Callable[[], Credentials | Awaitable[Credentials]]


def account_of(auth: Auth) -> str:
    """Return which record of a storage belongs to these credentials, "" if only time can tell."""
    return auth.account if isinstance(auth, Guest | Password | Jwt | Keys) else ""
