"""Minting: sessions that a backend opens for players it knows, before they connect."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.api_types import MAX_ATTRIBUTES_BYTES, Minted, MintRequest
from gateway.auth import API
from gateway.errors import RequestRefused
from gateway.locks import KeyedLocks, player_key
from gateway.messages import SessionId, TrueId
from gateway.metrics import Metrics
from gateway.session import Session
from gateway.store import SessionsFull, Store
from gateway.texts import clean_text
from gateway.tokens import Tokens

_TRUE_ID: Final = re.compile(r"[!-~]{1,128}")
_RETRY_AFTER: Final = 5.0


class Minting:
    """Opens sessions. `is_here` tells whether a player has a connection; `clock` Unix seconds."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        locks: KeyedLocks,
        metrics: Metrics,
        is_here: Callable[[TrueId], bool],
        new_session_id: Callable[[], SessionId],
        clock: Callable[[], float],
        name_bytes: int,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._locks = locks
        self._metrics = metrics
        self._is_here = is_here
        self._new_session_id = new_session_id
        self._clock = clock
        self._name_bytes = name_bytes

    async def mint(self, request: MintRequest) -> Minted:
        """Open a session and return its first token; messages wait for the player from now on.

        Raises RequestRefused, and StoreUnavailable.
        """
        # The type's pattern lets a line's end at the end pass.
        if not _TRUE_ID.fullmatch(request.true_id):
            raise RequestRefused("bad_request", "true_id must be visible ASCII", "true_id")
        true_id = TrueId(request.true_id)
        attributes = msgspec.json.encode(request.attributes)
        if len(attributes) > MAX_ATTRIBUTES_BYTES:
            raise RequestRefused(
                "too_large",
                f"attributes have {len(attributes)} bytes, more than the {MAX_ATTRIBUTES_BYTES} "
                "allowed",
                "attributes",
            )
        name = self._name(request)
        view = await self._store.view(true_id)
        here = view.remote or self._is_here(true_id)
        after = view.head if here else min(view.confirmed, view.head)
        session_id = self._new_session_id()
        session = Session(
            id=session_id,
            true_id=true_id,
            name=name,
            method=API,
            pid=self._tokens.sign_pid(true_id, session_id, 0, self._store.epoch_of(true_id)),
            last_seen=self._clock(),
            start=after,
            confirmed=after,
            # Its client connects for the first time with this token: see Session.
            generation=0,
            opened=0,
            attributes=attributes.decode(),
        )
        async with self._locks.hold(player_key(true_id)):
            try:
                await self._store.add_session(session)
            except SessionsFull:
                self._metrics.limit_hit("sessions")
                raise RequestRefused(
                    "unavailable", "too many sessions are connected", None, _RETRY_AFTER
                ) from None
        token = self._tokens.sign_session(session, self._store.epoch_of(true_id))
        return Minted(true_id, session_id, token, self._tokens.lifetime)

    def _name(self, request: MintRequest) -> str:
        name = request.attributes.get("name")
        if name is None:
            return request.true_id[: self._name_bytes or None]
        try:
            return clean_text(name, "name", self._name_bytes)
        except ValueError as error:
            raise RequestRefused("bad_request", str(error), "attributes.name") from None
