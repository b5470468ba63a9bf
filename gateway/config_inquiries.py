"""The settings of questions to the game's backend: see config.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config_checks import wrong_webhook_url
from gateway.config_spec import about, limit, seconds


@dataclass(frozen=True, slots=True)
class InquiryConfig:
    """What is common to `auth.webhook` and `rooms.webhook`: questions to the game's backend."""

    url: str = field(
        default="",
        metadata=about(
            "Where the question is posted to, such as https://backend.example/gateway. Redirects "
            "are not followed. Empty: nobody is asked.",
            check=wrong_webhook_url,
        ),
    )
    secret_file: str = field(
        default="",
        metadata=about(
            "File with the secrets that sign questions, one a line: each question has a signature "
            "by each of them. Empty: the systemd credential `webhook-secret`. One of both must be "
            "there with a url."
        ),
    )
    ca_file: str = field(
        default="",
        metadata=about(
            "Certificates (PEM) to trust in the place of the system's, for an https url."
        ),
    )
    connect_timeout: float = field(
        default=2.0, metadata=seconds("How long a connection to the backend may take.")
    )
    timeout: float = field(
        default=5.0,
        metadata=seconds(
            "How long the whole may take; half of it may pass before it is a question's turn."
        ),
    )
    concurrency: int = field(
        default=32, metadata=about("Questions under way at once.", minimum=1, maximum=1024)
    )
    queue: int = field(
        default=256, metadata=limit("Questions that wait for their turn; others are refused.")
    )
    answer_bytes: int = field(
        default=16_384,
        metadata=about("Largest answer that is read.", "bytes", minimum=1024, maximum=1_048_576),
    )


@dataclass(frozen=True, slots=True)
class AuthWebhookConfig(InquiryConfig):
    """Section `auth.webhook`: the game's backend says who a player is."""

    question_bytes: int = field(
        default=8192,
        metadata=limit("Largest question, which holds what the client sent.", "bytes", 512),
    )
    attempts_per_minute: int = field(
        default=60,
        metadata=limit(
            "Log-ins from one network, which is an IPv4 address or an IPv6 /64, that the backend "
            "refuses, or has not answered yet.",
            "per minute",
        ),
    )
    accept_other_ids: bool = field(
        default=False,
        metadata=about(
            "Whether the backend may name a player of another method: a guest (`p_...`) who now "
            "has an account, a user with a password, or one with a JWT. If not, such an answer is "
            "refused: somebody may have chosen that for a name."
        ),
    )
