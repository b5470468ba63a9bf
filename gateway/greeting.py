"""The event `session`: what a client learns first on every connection (PROTOCOL 1.2)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.session import ReplayStart, Session


def build_greeting(
    session: Session,
    token: str,
    lifetime: float,
    start: ReplayStart,
    *,
    resumed: bool,
    missed: int,
    connections: int,
    limits: Mapping[str, object],
) -> dict[str, object]:
    """Return the payload. `lifetime` is the token's, in seconds, `connections` the player's."""
    gap = start.gap
    return {
        "true_id": session.true_id,
        "session_id": session.id,
        "name": session.name,
        "attributes": msgspec.json.decode(session.attributes),
        "token": token,
        "token_expires_in": lifetime,
        "resumed": resumed,
        "outcome": start.outcome,
        "missed": missed,
        "gap": None if gap is None else {"after": gap.after, "lost": gap.lost},
        "connections": connections,
        "limits": limits,
    }
