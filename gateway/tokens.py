"""Signed resume tokens and pids (itsdangerous).

Both are bearer secrets bound to one player and one session. A token also carries its
generation, which rotates at every use (session.py holds that rule), the name, attributes and
epoch that let a player keep its `true_id` when the store was lost, and how the player once
logged in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from itsdangerous import BadData, BadPayload, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode
from itsdangerous.serializer import Serializer
from itsdangerous.timed import TimedSerializer

from gateway.errors import ConnectRefused
from gateway.messages import SessionId, TrueId
from gateway.session import NO_ATTRIBUTES, Session

#: Longer strings are refused before any signature is computed over them.
MAX_TOKEN_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """What a resume token says once its signature is verified."""

    true_id: TrueId
    session_id: SessionId
    generation: int
    epoch: str
    name: str
    method: str
    issued_at: float
    attributes: str = NO_ATTRIBUTES


@dataclass(frozen=True, slots=True)
class Pid:
    """What a pid says once its signature is verified; `opened` is as in Session.

    `epoch` is the store's: a session that was opened again in another one may look the same.
    """

    true_id: TrueId
    session_id: SessionId
    opened: int = 1
    epoch: str = ""


class _Compact:
    """Base64 of JSON. itsdangerous' own URL-safe form tries zlib first, at thrice the cost."""

    def dump_payload(self, obj: Any) -> bytes:
        return base64_encode(msgspec.json.encode(obj))

    def load_payload(self, payload: bytes, *args: Any, **kwargs: Any) -> Any:
        try:
            return msgspec.json.decode(base64_decode(payload))
        except (BadData, msgspec.DecodeError) as error:
            raise BadPayload("the payload is not base64 of JSON") from error


class _ResumeSerializer(_Compact, TimedSerializer[str]):
    pass


class _PidSerializer(_Compact, Serializer[str]):
    pass


class Tokens:
    """Signs and verifies; the first key signs, all keys verify.

    `lifetime` is in seconds, `clock` returns Unix seconds. Raises ValueError without a key.
    """

    def __init__(
        self, secret_keys: Sequence[str], lifetime: float, clock: Callable[[], float]
    ) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self.reconfigure(secret_keys)

    def reconfigure(self, secret_keys: Sequence[str]) -> None:
        """Sign and verify by other keys from now on. Raises ValueError without a key."""
        if not secret_keys:
            raise ValueError("tokens need at least one secret key")
        # itsdangerous signs with the last key of its list.
        keys = list(reversed(secret_keys))
        options = {"digest_method": hashlib.sha256}
        self._resume = _ResumeSerializer(
            keys,
            salt="gateway.resume-token",
            signer=_clocked_signer(self._clock),
            signer_kwargs=options,
        )
        self._pid = _PidSerializer(keys, salt="gateway.pid", signer_kwargs=options)

    def sign_token(
        self,
        true_id: TrueId,
        session_id: SessionId,
        generation: int,
        epoch: str,
        name: str,
        method: str,
        attributes: str = NO_ATTRIBUTES,
    ) -> str:
        """Return a resume token that is valid for `lifetime` seconds from now."""
        said: list[object] = [true_id, session_id, generation, epoch, name, method]
        if attributes != NO_ATTRIBUTES:
            said.append(attributes)
        return self._resume.dumps(said)

    def sign_session(self, session: Session, epoch: str) -> str:
        """Return a resume token of the session's present generation; `epoch` is the store's."""
        return self.sign_token(
            session.true_id,
            session.id,
            session.generation,
            epoch,
            session.name,
            session.method,
            session.attributes,
        )

    def rotate(
        self, session: Session, token: ResumeToken, epoch: str, *, forgets: bool = False
    ) -> int:
        """Return the generation to issue to who presents the token; `epoch` is the store's.

        It is that of `Session.present`, but for a session which a backup older than the token
        has brought back: until it is used again, and has a pid of the new epoch, the newer
        token is good. In a store that `forgets`, the last may be lost without a new epoch, so a
        newer token is good at any time: if it is a copy, the other one is noticed. Raises
        ConnectRefused (`token_reused`) for a copied one.
        """
        if token.generation > session.generation:
            pid = None if token.epoch == epoch else self.verify_pid(session.pid)
            if forgets or (token.epoch != epoch and (pid is None or pid.epoch != epoch)):
                return token.generation + 1
        return session.present(token.generation)

    def verify_token(self, token: str) -> ResumeToken:
        """Return what the token says.

        Raises ConnectRefused: `token_expired`, or `token_invalid` for anything else.
        """
        try:
            if len(token) > MAX_TOKEN_LENGTH:
                raise BadData("too long")
            payload, issued = self._resume.loads(token, return_timestamp=True)
            true_id, session_id, generation, epoch, name, method, *more = payload
            issued_at = issued.timestamp()
        except (BadData, ValueError, TypeError):
            raise ConnectRefused(
                "token_invalid", "the resume token is not valid here: log in again"
            ) from None
        # Not left to itsdangerous, which takes a token from the future for an expired one: a
        # clock that is set back would log everybody out. Times are signed in whole seconds.
        if int(self._clock()) - issued_at > self.lifetime:
            raise ConnectRefused("token_expired", "the resume token has expired: log in again")
        return ResumeToken(
            true_id,
            session_id,
            int(generation),
            str(epoch),
            str(name),
            str(method),
            issued_at,
            str(more[0]) if more else NO_ATTRIBUTES,
        )

    def sign_pid(
        self, true_id: TrueId, session_id: SessionId, opened: int = 1, epoch: str = ""
    ) -> str:
        """Return the session's pid: the same string as long as the first key stays the same."""
        return self._pid.dumps([true_id, session_id, opened, epoch])

    def verify_pid(self, pid: str) -> Pid | None:
        """Return what the pid says, or None if it is not one of ours."""
        try:
            if len(pid) > MAX_TOKEN_LENGTH:
                return None
            true_id, session_id, opened, epoch = self._pid.loads(pid)
            return Pid(true_id, session_id, int(opened), str(epoch))
        except (BadData, ValueError, TypeError):
            return None


def _clocked_signer(clock: Callable[[], float]) -> type[TimestampSigner]:
    """Return itsdangerous' signer reading the clock that was passed in."""

    class ClockedSigner(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(clock())

    return ClockedSigner
