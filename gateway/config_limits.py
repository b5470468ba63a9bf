"""Section `limits` of the YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config_spec import limit, seconds


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Section `limits`: what clients may take; 0 is no limit."""

    connections: int = field(default=20_000, metadata=limit("Open connections in all."))
    connections_per_address: int = field(
        default=1000, metadata=limit("Open connections from one IPv4 address or IPv6 /64.")
    )
    connections_per_player: int = field(
        default=16, metadata=limit("Open connections of one player.")
    )
    sessions: int = field(
        default=100_000,
        metadata=limit("Sessions kept; beyond it the longest unseen ones go."),
    )
    sessions_per_player: int = field(default=32, metadata=limit("Sessions of one player."))
    revocations: int = field(
        default=500_000,
        metadata=limit(
            "Revoked sessions, and revoked players, that are remembered as long as tokens last; "
            "beyond it the oldest goes, and all tokens that are older than that are worth nothing. "
            "On Redis each of 256 partitions has its share."
        ),
    )
    new_sessions_per_minute: int = field(
        default=30000,
        metadata=limit(
            "New sessions from one network, which is an IPv4 address or an IPv6 /64.",
            "per minute",
        ),
    )
    message_bytes: int = field(
        default=65_536,
        metadata=limit(
            "Largest `data` of a message; a packet may have 4096 bytes more.",
            "bytes",
            minimum=1024,
        ),
    )
    messages_per_second: float = field(
        default=200.0,
        metadata=limit("Events of a connection in the long run.", "per second", minimum=0.001),
    )
    burst: int = field(
        default=400,
        metadata=limit(
            "Events of a connection at once; 0 only together with messages_per_second 0."
        ),
    )
    send_buffer_bytes: int = field(
        default=262_144,
        metadata=limit(
            "Unsent data of a connection; beyond it reliable messages wait in the mailbox, "
            "volatile ones with a key are kept by their latest value, others are dropped.",
            "bytes",
        ),
    )
    state_keys: int = field(
        default=1024,
        metadata=limit(
            "Keys whose latest volatile value is kept for a connection that is hidden or slow; the "
            "ones longest without an update go first."
        ),
    )
    state_bytes: int = field(
        default=262_144,
        metadata=limit("Size of these values together.", "bytes"),
    )
    slow_timeout: float = field(
        default=30.0,
        metadata=seconds(
            "A connection whose unsent data stays over send_buffer_bytes for so long is closed.",
            "never",
        ),
    )
    connect_timeout: float = field(
        default=10.0,
        metadata=seconds("A connection that has not logged in after so long is closed.", "never"),
    )
    forwarded_requests: int = field(
        default=20_000,
        metadata=limit(
            "Polls, posts and websockets under way whose session another gateway on the same "
            "store has."
        ),
    )
    name_bytes: int = field(default=64, metadata=limit("Length of a player's name.", "bytes"))
