"""Who is connecting: from the auth payload of a CONNECT to an `Identity`.

Every method is an `Authenticator` in a module of its own; `Authentication` picks the one that a
payload asks for. Resume tokens and pids are not handled here: they come first and win.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import ConnectRefused
from gateway.messages import TrueId
from gateway.session import NO_ATTRIBUTES


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
    "webhook": Method((), "the keys that the game asks for"),
}

# Joiners make emoji sequences and are letters' business in Persian and the Indic scripts.
_JOINERS: Final = "\u200c\u200d"
# The flags of England, Scotland and Wales: a black flag and invisible tag characters.
_TAGGED_FLAG: Final = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f")
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The Stream-Safe limit of UAX 15; normalising longer runs takes quadratic time.
_MAX_COMBINING_RUN: Final = 30
# No text shrinks by more than this when it is composed, so longer input need not be looked at.
_MAX_COMPOSITION: Final = 4


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

    __slots__ = ("_authenticators", "_enabled", "_hint")

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        """Keep the order; none at all is fine where only resume tokens are accepted.

        Raises ValueError for a method that is not in METHODS or comes twice.
        """
        names = [authenticator.method for authenticator in authenticators]
        for name in names:
            if name not in METHODS:
                known = ", ".join(METHODS)
                raise ValueError(f"unknown auth method {name[:40]!r}; use one of {known}")
            if names.count(name) > 1:
                raise ValueError(f"auth method {name!r} comes twice; remove one")
        self._authenticators = tuple(authenticators)
        self._enabled = frozenset(names)
        ways = [f"{METHODS[name].send} ({name})" for name in names]
        self._hint = "send " + ", or ".join(ways or ["`token`, no other method is enabled"])

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return who it is, as the first method says that claims the payload.

        Raises ConnectRefused: `unsupported` when it asks for a method that is not enabled,
        `bad_credentials` when it asks for none, and whatever the claiming method refuses with.
        """
        for authenticator in self._authenticators:
            if authenticator.claims(auth):
                return await authenticator.authenticate(auth, address)
        for name, method in METHODS.items():
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
        return method not in METHODS or not METHODS[method].vouched


def clean_text(value: object, field: str, max_bytes: int) -> str:
    """Return a text that people will see, in Unicode's normal form C.

    It has 1 to `max_bytes` UTF-8 bytes (0: any number), something visible in it, and no control
    or format characters but those in emoji and joined scripts: nothing that breaks a log line or
    turns its direction. Raises ValueError, whose text names `field` and quotes none of the value.
    """
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a string")
    if not value:
        raise ValueError(f"{field} is empty")
    if max_bytes and len(value) > max_bytes * _MAX_COMPOSITION:
        raise ValueError(f"{field} is longer than {max_bytes} bytes")
    run = 0
    visible = False
    for character in _TAGGED_FLAG.sub("\U0001f3f4", value):
        category = unicodedata.category(character)
        if category in _REFUSED_CATEGORIES and character not in _JOINERS:
            raise ValueError(f"{field} contains U+{ord(character):04X}; remove it")
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MAX_COMBINING_RUN:
            raise ValueError(f"{field} has too many combining marks in a row; remove some")
        visible |= category[0] in "LNPSC" and character not in _JOINERS
    if not visible:
        raise ValueError(f"{field} has no visible character")
    text = unicodedata.normalize("NFC", value)
    if max_bytes and len(text.encode()) > max_bytes:
        raise ValueError(f"{field} is longer than {max_bytes} bytes")
    return text


def clean_name(value: object, max_bytes: int) -> str:
    """Return a display name, trimmed and checked as `clean_text` does.

    Raises ConnectRefused with `bad_credentials`; its text names the field and the fault.
    """
    try:
        return clean_text(value.strip() if isinstance(value, str) else value, "name", max_bytes)
    except ValueError as error:
        raise ConnectRefused("bad_credentials", str(error)) from error
