"""The sections of the YAML file about the game's backend: see config.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config_checks import wrong_webhook_url
from gateway.config_spec import about, limit, seconds


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Section `api`: the HTTP API for game backends."""

    keys_file: str = field(
        default="",
        metadata=about(
            "File of API keys, made by `game-gateway api-keys`. Empty: `api-keys` in the state "
            "directory. Without a key in it nobody may call."
        ),
    )
    requests_per_second: float = field(
        default=200.0,
        metadata=limit("Calls with a key in the long run.", "per second", minimum=0.001),
    )
    burst: int = field(
        default=400,
        metadata=limit("Calls with a key at once; 0 only together with requests_per_second 0."),
    )
    attempts_per_minute: int = field(
        default=60,
        metadata=limit(
            "Calls with a wrong key from one network, which is an IPv4 address or an IPv6 /64.",
            "per minute",
        ),
    )
    broadcasts: int = field(
        default=2, metadata=limit("Messages to all players that may be under way.")
    )


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Section `admin`: the page of the operator."""

    enabled: bool = field(
        default=True,
        metadata=about(
            "Whether the page is served at /admin/. Nobody gets in without an API key with the "
            "scope admin."
        ),
    )
    session_lifetime: float = field(
        default=3600.0, metadata=seconds("How long a log-in lasts, whatever is done with it.")
    )
    sessions: int = field(default=32, metadata=limit("Log-ins at once; one more ends the oldest."))
    attempts_per_minute: int = field(
        default=10,
        metadata=limit(
            "Log-ins with a wrong key from one network, which is an IPv4 address or an IPv6 /64.",
            "per minute",
        ),
    )


@dataclass(frozen=True, slots=True)
class WebhooksConfig:
    """Section `webhooks`: events that are sent to the game's backend."""

    url: str = field(
        default="",
        metadata=about(
            "Where events are posted to, such as https://backend.example/gateway. Empty: nowhere, "
            "and none are kept.",
            check=wrong_webhook_url,
        ),
    )
    secret_file: str = field(
        default="",
        metadata=about(
            "File with the secrets that sign events, one a line: each event has a signature by "
            "each of them. Empty: the systemd credential `webhook-secret`. One of both must be "
            "there with a url."
        ),
    )
    ca_file: str = field(
        default="",
        metadata=about(
            "Certificates (PEM) to trust in the place of the system's, for an https url."
        ),
    )
    timeout: float = field(
        default=10.0, metadata=seconds("How long the backend may take to answer.")
    )
    concurrency: int = field(
        default=8,
        metadata=about(
            "Events under way at once; those of a player are sent one after the other.",
            minimum=1,
            maximum=256,
        ),
    )
    attempts: int = field(
        default=10,
        metadata=about(
            "How often an event is sent that the backend refuses (status 400 to 499) before it is "
            "given up.",
            minimum=1,
        ),
    )
    max_backoff: float = field(
        default=300.0, metadata=seconds("Longest pause between two tries; the first is a second.")
    )
    retention: float = field(
        default=259200.0,
        metadata=seconds("How long an event is tried before it is given up.", "for good"),
    )
    max_queued: int = field(
        default=100_000,
        metadata=limit("Events that wait; beyond it the oldest is given up."),
    )
    max_dead: int = field(
        default=1000, metadata=limit("Events given up that are kept to be looked at.")
    )
