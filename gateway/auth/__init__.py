"""Who is connecting: from the auth payload of a CONNECT to an `Identity`.

Every method is an `Authenticator` in a module of its own; `Authentication` picks the one that a
payload asks for. Resume tokens and pids are not handled here: they come first and win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from gateway.errors import ConnectRefused
from gateway.messages import TrueId
from gateway.session import NO_ATTRIBUTES
from gateway.texts import clean_text


@dataclass(frozen=True, slots=True)
class Method:
    """A way to log in: the payload keys that ask for it, and what to tell people to send.

    `permanent` where players exist before they log in, as accounts that somebody may remove.
    `vouched` where somebody vouches for a player: without the method nobody does.
    """

    keys: tuple[str, ...]
    send: str
    permanent: bool = False
    vouched: bool = False


#: Every method that `auth.methods` may name. The webhook takes whatever keys the game likes.
METHODS: Final[Mapping[str, Method]] = {
    "guest": Method(("guest",), "`guest: true`"),
    "password": Method(
        ("username", "password"), "`username` and `password`", permanent=True, vouched=True
    ),
    "jwt": Method(("jwt",), "`jwt`", vouched=True),
    "webhook": Method((), "the keys that the game asks for", vouched=True),
}

#: The method of sessions that a backend opened: it vouches for them itself.
API: Final = "api"


@dataclass(frozen=True, slots=True)
class Identity:
    """A player whose credentials were good; `method` is a key of METHODS.

    `attributes` is what the method says of the player, a JSON object.
    """

    true_id: TrueId
    name: str
    method: str
    attributes: str = NO_ATTRIBUTES


class Authenticator(Protocol):
    """One method of logging in."""

    @property
    def method(self) -> str:
        """The method's name, a key of METHODS."""

    def claims(self, auth: Mapping[str, object]) -> bool:
        """Return whether this CONNECT payload asks for this method; check nothing else."""

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return who it is. `address` is the client's, for rate limits; raises ConnectRefused."""

    async def still_valid(self, true_id: TrueId) -> bool:
        """Return whether a player whom this method let in once may come back by a token."""


class Authentication:
    """The enabled methods, in the order in which they may claim a payload."""

    __slots__ = ("_authenticators", "_enabled", "_hint", "_methods")

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        others: Mapping[str, Method] = MappingProxyType({}),
    ) -> None:
        """Keep the order; none at all is fine where only resume tokens are accepted.

        `others` are methods beside METHODS. Raises ValueError for one that is in neither or
        comes twice.
        """
        names = [authenticator.method for authenticator in authenticators]
        methods = self._methods = {**METHODS, **others}
        for name in names:
            if name not in methods:
                known = ", ".join(methods)
                raise ValueError(f"unknown auth method {name[:40]!r}; use one of {known}")
            if names.count(name) > 1:
                raise ValueError(f"auth method {name!r} comes twice; remove one")
        self._authenticators = tuple(authenticators)
        self._enabled = frozenset(names)
        ways = [f"{methods[name].send} ({name})" for name in names]
        self._hint = "send " + ", or ".join(ways or ["`token`, no other method is enabled"])

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return who it is, as the first method says that claims the payload.

        Raises ConnectRefused: `unsupported` when it asks for a method that is not enabled,
        `bad_credentials` when it asks for none, and whatever the claiming method refuses with.
        """
        for authenticator in self._authenticators:
            if authenticator.claims(auth):
                return await authenticator.authenticate(auth, address)
        for name, method in self._methods.items():
            if name not in self._enabled and any(key in auth for key in method.keys):
                raise ConnectRefused(
                    "unsupported", f"auth method {name} is not enabled here; {self._hint}"
                )
        raise ConnectRefused("bad_credentials", f"auth has no credentials; {self._hint}")

    async def still_valid(self, method: str, true_id: TrueId) -> bool:
        """Return whether a player whom `method` let in once may come back by a token.

        Without the method nobody vouches for an account any more, so it counts as gone.
        """
        for authenticator in self._authenticators:
            if authenticator.method == method:
                return await authenticator.still_valid(true_id)
        return method == API or (method in METHODS and not METHODS[method].vouched)

    def is_permanent(self, method: str) -> bool:
        """Tell whether players of this method exist before they log in."""
        return self._methods[method].permanent


def clean_name(value: object, max_bytes: int) -> str:
    """Return a display name, trimmed and checked as `clean_text` does.

    Raises ConnectRefused with `bad_credentials`; its text names the field and the fault.
    """
    try:
        return clean_text(value.strip() if isinstance(value, str) else value, "name", max_bytes)
    except ValueError as error:
        raise ConnectRefused("bad_credentials", str(error)) from error
