"""The sections about players among each other: see config.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config_inquiries import InquiryConfig
from gateway.config_spec import about, limit, seconds


@dataclass(frozen=True, slots=True)
class PresenceConfig:
    """Section `presence`: who is here."""

    grace: float = field(
        default=30.0,
        metadata=seconds(
            "How long a player without a connection is away before they are offline.",
            "offline at once",
        ),
    )
    settle: float = field(
        default=2.0,
        metadata=seconds(
            "A connection that is lost and back within so long was never gone for others; at most "
            "grace.",
            "others are told at once",
        ),
    )
    interval: float = field(
        default=0.2,
        metadata=seconds(
            "A watcher is told of a player at most once in so long, then of the latest state; less "
            "often when the gateway is busy.",
            "of every change",
        ),
    )
    hidden_policy: str = field(
        default="latest",
        metadata=about(
            "What a hidden page gets of volatile messages: when it is active again the latest one "
            "of each key, none at all, or each at once as if it were active.",
            choices=("latest", "drop", "send"),
        ),
    )
    listing: bool = field(
        default=True, metadata=about("Whether players may list who is online (event `players`).")
    )
    max_watched: int = field(
        default=1000, metadata=limit("Players whose presence a connection may watch.")
    )


@dataclass(frozen=True, slots=True)
class RoomsConfig:
    """Section `rooms`: parties, matches, lobbies."""

    open: bool = field(
        default=True,
        metadata=about(
            "Whether any player may join any room, which comes to be with its first member. If "
            "not, only the game's backend puts players into rooms, or says who may join."
        ),
    )
    max_members: int = field(default=10_000, metadata=limit("Members of a room."))
    per_player: int = field(default=64, metadata=limit("Rooms that a player may be in."))
    rooms: int = field(default=10_000, metadata=limit("Rooms in all."))
    announce: int = field(
        default=256,
        metadata=limit(
            "Members up to which a room tells all of them who joins and leaves (event `room`)."
        ),
    )
    pending_joins: int = field(
        default=8, metadata=limit("Joins of a connection that may wait for the backend's answer.")
    )
    pending_messages: int = field(
        default=1024,
        metadata=limit(
            "With Redis: messages to a room that may be under way to its members; others are "
            "refused as `unavailable` until some have arrived."
        ),
    )
    webhook: InquiryConfig = field(
        default_factory=InquiryConfig,
        metadata=about("The game's backend is asked who may join, when rooms are not open."),
    )
