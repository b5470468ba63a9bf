"""The settings as frozen dataclasses, one for each section of the YAML file.

A field's metadata carries its `Spec`: what the operator reads about the key and what the
value must satisfy. `config_loader` reads, checks and documents every key by it, so a key
exists in exactly one place: here. Each object of the gateway gets its own section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from gateway.config_auth import AuthConfig
from gateway.config_backend import AdminConfig, ApiConfig, WebhooksConfig
from gateway.config_checks import (
    MAX_PORT,
    MIN_SECRET_CHARACTERS,
    wrong_address,
    wrong_file_name,
    wrong_host,
    wrong_internal,
    wrong_mode,
    wrong_module_name,
    wrong_origin,
    wrong_proxy,
    wrong_public_url,
    wrong_secret,
    wrong_socket_path,
)
from gateway.config_limits import LimitsConfig
from gateway.config_players import PresenceConfig, RoomsConfig
from gateway.config_spec import Setting, Spec, about, limit, seconds
from gateway.store_url import wrong_store_url


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Section `server.tls`: the certificate of the listening socket."""

    certificate: str = field(
        default="",
        metadata=about(
            "File with the certificate and the chain behind it (PEM). Empty: no TLS, which a "
            "reverse proxy does then."
        ),
    )
    key: str = field(
        default="",
        metadata=about("File with the certificate's private key (PEM), without a password."),
    )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Section `server`: the listening sockets, who may use them, and the heartbeat."""

    host: str = field(
        default="127.0.0.1",
        metadata=about(
            'Address to listen on. "0.0.0.0" is every IPv4 address, "::" every address. Empty: '
            "none, with unix_socket only.",
            check=wrong_host,
            may_be_empty=True,
        ),
    )
    port: int = field(
        default=8080,
        metadata=about("Port to listen on.", minimum=1, maximum=MAX_PORT, zero="a free port"),
    )
    unix_socket: str = field(
        default="",
        metadata=about(
            "Path of a Unix domain socket to listen on besides, for a reverse proxy on this "
            "machine; always without TLS. Empty: none.",
            check=wrong_socket_path,
        ),
    )
    unix_socket_mode: str = field(
        default="0660",
        metadata=about(
            "Permissions of that socket, in octal and in quotes: who may write may connect.",
            check=wrong_mode,
        ),
    )
    reuse_port: bool = field(
        default=False,
        metadata=about(
            "Whether other gateways of this machine may listen on host and port, too; the system "
            "then spreads connections among them (SO_REUSEPORT)."
        ),
    )
    internal: str = field(
        default="127.0.0.1:0",
        metadata=about(
            '"HOST:PORT" for requests from the other gateways on the same store, with a HOST at '
            "which they reach this one; port 0 is a free one. It must not be open to anybody "
            "else. Only used with a store that several gateways share.",
            check=wrong_internal,
        ),
    )
    public_url: str = field(
        default="",
        metadata=about(
            "How players reach the gateway when that is not host and port, such as "
            "https://game.example, without a path. Empty: unknown.",
            check=wrong_public_url,
        ),
    )
    allowed_origins: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Web pages of other origins that may connect, such as https://game.example; "
            '"*" is any. The same origin may always connect.',
            check=wrong_origin,
        ),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Addresses or networks (CIDR) of reverse proxies whose X-Forwarded-For is believed, "
            "and the word unix for those behind a Unix domain socket; no other header tells an "
            "address.",
            check=wrong_proxy,
        ),
    )
    tls: TlsConfig = field(
        default_factory=TlsConfig,
        metadata=about("TLS by the gateway itself, for host and port."),
    )
    backlog: int = field(
        default=4096,
        metadata=about(
            "Connections that may wait to be accepted; the system may cap it lower "
            "(net.core.somaxconn).",
            minimum=1,
            maximum=MAX_PORT,
        ),
    )
    websocket: str = field(
        default="picows",
        metadata=about(
            "Who speaks websocket: picows is fast, tornado is the fallback, and used under TLS.",
            choices=("picows", "tornado"),
        ),
    )
    shutdown_grace: float = field(
        default=10.0,
        metadata=seconds(
            "How long a stop may take to send its players away, in the order in which they are "
            "asked to come back.",
            "stop at once",
        ),
    )
    reconnects_per_second: float = field(
        default=500.0,
        metadata=about(
            "How many players are asked to come back per second after a stop; keep it well below "
            "what the machine admits.",
            "per second",
            minimum=0.001,
            zero="all at once",
        ),
    )
    ping_interval: float = field(
        default=25.0, metadata=seconds("Pause between two heartbeats of a connection.")
    )
    ping_timeout: float = field(
        default=20.0,
        metadata=seconds("A connection that leaves a heartbeat unanswered for so long is closed."),
    )


@dataclass(frozen=True, slots=True)
class StaticConfig:
    """Section `static`: the game client's files."""

    path: str = field(
        default="",
        metadata=about("Directory with the game's own client. Empty: the built-in client."),
    )
    index: str = field(
        default="index.html",
        metadata=about("File of that directory that answers /.", check=wrong_file_name),
    )


@dataclass(frozen=True, slots=True)
class ResumeConfig:
    """Section `resume`: tokens that bring a player back to a session."""

    secret_keys: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata=about(
            f"Keys of at least {MIN_SECRET_CHARACTERS} characters; the first signs, all verify. "
            "Better than keys in this file: secret_key_file or a systemd credential.",
            check=wrong_secret,
            secret=True,
        ),
    )
    secret_key_file: str = field(
        default="",
        metadata=about(
            "File with one key a line, the first signs. Empty: the systemd credential "
            "`resume-secret-key`, else a generated `resume.key` (mode 0600) in the state directory."
        ),
    )
    token_lifetime: float = field(
        default=604800.0, metadata=seconds("How long a resume token is valid.")
    )
    session_lifetime: float = field(
        default=604800.0,
        metadata=seconds("How long a session waits for its player after it was last seen."),
    )
    probe_timeout: float = field(
        default=3.0,
        metadata=seconds(
            "How long an old connection may take to prove itself alive when its token comes again."
        ),
    )


@dataclass(frozen=True, slots=True)
class MailboxConfig:
    """Section `mailbox`: the stored messages of each player."""

    max_messages: int = field(
        default=1000, metadata=limit("Messages kept for a player; the oldest go first.")
    )
    max_bytes: int = field(
        default=1_048_576,
        metadata=limit("Size of a player's messages together; the oldest go first.", "bytes"),
    )
    when_full: str = field(
        default="drop_oldest",
        metadata=about(
            "What happens at max_messages or max_bytes: the oldest message goes, or the new one "
            "is refused (mailbox_full) until the player has confirmed some.",
            choices=("drop_oldest", "refuse"),
        ),
    )
    total_bytes: int = field(
        default=1_073_741_824,
        metadata=limit(
            "Size of all mailboxes and idempotency keys together. Messages that have arrived "
            "everywhere go first; without any, new messages are refused.",
            "bytes",
        ),
    )
    retention: float = field(default=604800.0, metadata=seconds("How long a message is kept."))
    dedupe_window: float = field(
        default=600.0,
        metadata=seconds(
            "How long a sender's idempotency key is remembered, so that a repeated message is "
            "accepted once.",
            "not at all",
        ),
    )
    dedupe_keys: int = field(
        default=65_536,
        metadata=about(
            "Idempotency keys remembered for a sender; beyond it messages with one are refused "
            "until the oldest has outlived dedupe_window.",
            minimum=1,
        ),
    )


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Section `store`: where mailboxes and sessions live."""

    url: str = field(
        default="sqlite:///gateway.db",
        # That of Redis may have a password.
        repr=False,
        metadata=about(
            "sqlite:///FILE in the state directory, or sqlite:////ABSOLUTE/FILE; behind it "
            "?synchronous=NORMAL is faster and may lose the last moments in a power cut, which "
            "FULL, the default, survives. redis://HOST:PORT (rediss:// with TLS) is for several "
            "gateways on one Redis or Valkey. memory:// forgets everything at a restart.",
            check=wrong_store_url,
        ),
    )
    password: str = field(
        default="",
        repr=False,
        metadata=about(
            "Password of Redis or Valkey. Better than here: password_file, a systemd credential "
            "or GATEWAY_STORE_PASSWORD.",
            secret=True,
        ),
    )
    password_file: str = field(
        default="",
        metadata=about(
            "File with that password. Empty: the systemd credential `store-password`, if there "
            "is one."
        ),
    )
    node_lease: float = field(
        default=5.0,
        metadata=about(
            "With Redis: a node that the others have not heard of for so long is dead for them.",
            "seconds",
            minimum=1,
        ),
    )


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Section `metrics`: numbers for Prometheus."""

    enabled: bool = field(default=True, metadata=about("Whether metrics are served at /metrics."))
    listen: str = field(
        default="",
        metadata=about(
            '"HOST:PORT" for a listener of its own. Empty: on the main port, for clients on this '
            "machine only.",
            check=wrong_address,
        ),
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Section `log`: what goes to standard error."""

    level: str = field(
        default="info",
        metadata=about(
            "Least level that is logged.", choices=("debug", "info", "warning", "error")
        ),
    )
    format: str = field(
        default="text",
        metadata=about("Lines for people or for programs.", choices=("text", "json")),
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; `Config()` is what runs without a file."""

    server: ServerConfig = field(
        default_factory=ServerConfig, metadata=about("The main listener and its connections.")
    )
    static: StaticConfig = field(
        default_factory=StaticConfig, metadata=about("The page that players load from /.")
    )
    auth: AuthConfig = field(
        default_factory=AuthConfig, metadata=about("How players without a session get in.")
    )
    resume: ResumeConfig = field(
        default_factory=ResumeConfig,
        metadata=about("Coming back to a session after a lost connection, a reload or a restart."),
    )
    mailbox: MailboxConfig = field(
        default_factory=MailboxConfig, metadata=about("Messages kept for players.")
    )
    store: StoreConfig = field(
        default_factory=StoreConfig, metadata=about("Where sessions and mailboxes live.")
    )
    presence: PresenceConfig = field(
        default_factory=PresenceConfig, metadata=about("What players learn about each other.")
    )
    rooms: RoomsConfig = field(
        default_factory=RoomsConfig, metadata=about("Players who hear each other.")
    )
    limits: LimitsConfig = field(
        default_factory=LimitsConfig, metadata=about("What clients may take.")
    )
    api: ApiConfig = field(
        default_factory=ApiConfig, metadata=about("The HTTP API for the game's backend.")
    )
    admin: AdminConfig = field(default_factory=AdminConfig, metadata=about("The operator's page."))
    webhooks: WebhooksConfig = field(
        default_factory=WebhooksConfig,
        metadata=about("What the game's backend is told of players, by HTTP."),
    )
    metrics: MetricsConfig = field(
        default_factory=MetricsConfig, metadata=about("Numbers for Prometheus.")
    )
    log: LogConfig = field(default_factory=LogConfig, metadata=about("Lines on standard error."))
    extensions: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Python modules of the game's own that run in the gateway, such as referee: see "
            "gateway/extension.py. They are trusted like the gateway itself.",
            check=wrong_module_name,
        ),
    )
    extensions_path: str = field(
        default="",
        metadata=about(
            "Directory where modules of extensions are looked for before those that are installed."
        ),
    )


def entries(
    section: type[Any] = Config, prefix: str = ""
) -> Iterator[tuple[Setting, type[Any] | None]]:
    """Yield the direct entries of a section, in order, each with its class if it is a section.

    `prefix` is the dotted name of `section` with a final dot, empty for the root.
    """
    for entry in fields(section):
        spec: Spec = entry.metadata["spec"]
        if entry.default is MISSING:
            yield Setting(prefix + entry.name, None, spec), cast(type[Any], entry.default_factory)
        else:
            yield Setting(prefix + entry.name, entry.default, spec), None
