"""Ids that nothing else has, and that nobody guesses."""

from __future__ import annotations

import secrets

from gateway.config_checks import GATEWAY_IDS
from gateway.messages import SessionId, TrueId


def new_true_id() -> TrueId:
    """Return a fresh player id."""
    return TrueId(GATEWAY_IDS + secrets.token_urlsafe(12))


def new_session_id() -> SessionId:
    """Return a fresh session id."""
    return SessionId("s_" + secrets.token_urlsafe(12))


def new_sid() -> str:
    """Return a fresh id for an Engine.IO session or a socket."""
    return secrets.token_urlsafe(15)
