"""Requests from node to node: that they come from a node, to this one, now and only once.

A request is signed with HMAC-SHA256 over its method, target, sender, recipient, number, time and
the digest of its body. The keys are derived from `resume.secret_keys`, which all nodes share.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final

#: How far the clocks of two nodes may be apart, with the way of a request, in seconds.
WINDOW: Final = 30.0
#: By how many requests of its sender one may be overtaken.
_OVERTAKEN: Final = 4096
_SEEN: Final = (1 << _OVERTAKEN) - 1
#: Senders whose requests are remembered.
_SENDERS: Final = 1024
_PURPOSE: Final = b"gateway requests from node to node, 1"
_VERSION: Final = "v1="
_FROM: Final = "Gateway-From"
_TO: Final = "Gateway-To"
_NUMBER: Final = "Gateway-Number"
_TIME: Final = "Gateway-Time"
_DIGEST: Final = "Gateway-Digest"
_SIGNATURE: Final = "Gateway-Signature"
#: More digits than any number or time has.
_MAX_DIGITS: Final = 15


class InvalidRequest(Exception):
    """A request is not to be answered; the text says why, and repeats nothing of it."""


class InternalRequests:
    """Signs what the node called `node` sends, and checks what it gets.

    The first of `secret_keys` signs, all verify. `clock` returns Unix seconds.
    """

    def __init__(self, node: str, secret_keys: Sequence[str], clock: Callable[[], float]) -> None:
        self.node = node
        self._clock = clock
        self._number = 0
        self._senders: dict[str, _Sender] = {}
        self.reconfigure(secret_keys)

    def reconfigure(self, secret_keys: Sequence[str]) -> None:
        """Sign and verify by other keys from now on."""
        self._keys = [hmac.digest(key.encode(), _PURPOSE, "sha256") for key in secret_keys]

    def sign(self, to: str, method: str, target: str, body: bytes) -> dict[str, str]:
        """Return the headers of a request to the node `to`."""
        self._number += 1
        number, time = str(self._number), str(int(self._clock()))
        digest = hashlib.sha256(body).hexdigest()
        signed = _signed(method, target, self.node, to, number, time, digest)
        return {
            _FROM: self.node,
            _TO: to,
            _NUMBER: number,
            _TIME: time,
            _DIGEST: digest,
            _SIGNATURE: _VERSION + hmac.new(self._keys[0], signed, hashlib.sha256).hexdigest(),
        }

    def check(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        """Raise InvalidRequest unless a node has sent this here, now, and for the first time.

        The body is not known yet: see `check_body`.
        """
        sender, to = headers.get(_FROM, ""), headers.get(_TO, "")
        number, time = headers.get(_NUMBER, ""), headers.get(_TIME, "")
        signed = _signed(method, target, sender, to, number, time, headers.get(_DIGEST, ""))
        signature = headers.get(_SIGNATURE, "").encode()
        good = False
        for key in self._keys:
            expected = _VERSION + hmac.new(key, signed, hashlib.sha256).hexdigest()
            good |= hmac.compare_digest(expected.encode(), signature)
        if not good:
            raise InvalidRequest("it is not signed with one of resume.secret_keys")
        if to != self.node:
            raise InvalidRequest("it is for another node")
        if not _is_number(number) or not _is_number(time):
            raise InvalidRequest("its number or time is none")
        now = self._clock()
        if abs(now - int(time)) > WINDOW:
            raise InvalidRequest(f"the clocks of its sender and here differ by over {WINDOW:g} s")
        self._take(sender, int(number), now)

    def check_body(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise InvalidRequest if this is not the body of a request that was checked."""
        digest = hashlib.sha256(body).hexdigest()
        if not hmac.compare_digest(digest.encode(), headers.get(_DIGEST, "").encode()):
            raise InvalidRequest("its body is not the one that was signed")

    def _take(self, name: str, number: int, now: float) -> None:
        sender = self._senders.get(name)
        if sender is None:
            # What is older than the window is refused by its time.
            old = [each for each, known in self._senders.items() if now - known.last > 2 * WINDOW]
            for each in old:
                del self._senders[each]
            if len(self._senders) >= _SENDERS:
                raise InvalidRequest("too many nodes have sent requests")
            sender = self._senders[name] = _Sender()
        sender.last = now
        if not sender.take(number):
            raise InvalidRequest("it has come before")


class _Sender:
    """Which of the latest numbers of a sender have come: the window of RFC 4303, section 3.4.3."""

    __slots__ = ("_highest", "_seen", "last")

    def __init__(self) -> None:
        self.last = 0.0
        self._highest = 0
        #: Bit n stands for the number n below the highest.
        self._seen = 0

    def take(self, number: int) -> bool:
        """Tell whether the number is new, and remember it."""
        ahead = number - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _SEEN if ahead < _OVERTAKEN else 1
            self._highest = number
            return True
        bit = 1 << -ahead if -ahead < _OVERTAKEN else 0
        if not bit or self._seen & bit:
            return False
        self._seen |= bit
        return True


def _signed(*parts: str) -> bytes:
    return "\n".join(parts).encode()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
