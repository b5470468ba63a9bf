"""What a running gateway takes over of a changed configuration, and what waits for a restart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gateway.config import Config, entries
from gateway.config_auth import JwtConfig

_Section = TypeVar("_Section")

#: All other keys take effect at the next start: sockets, timers and stores are built by them.
RELOADABLE: Final = frozenset(
    {
        "server.allowed_origins",
        "server.trusted_proxies",
        "server.shutdown_grace",
        "server.reconnects_per_second",
        "auth.methods",
        "auth.password.file",
        "auth.password.database",
        "auth.password.attempts_per_minute",
        "auth.webhook.question_bytes",
        "auth.webhook.attempts_per_minute",
        "auth.webhook.accept_other_ids",
        *(f"auth.jwt.{each.name}" for each in dataclasses.fields(JwtConfig)),
        "resume.secret_keys",
        "resume.secret_key_file",
        "resume.probe_timeout",
        "presence.hidden_policy",
        "limits.connections",
        "limits.connections_per_address",
        "limits.connections_per_player",
        "limits.new_sessions_per_minute",
        "limits.message_bytes",
        "limits.messages_per_second",
        "limits.burst",
        "limits.send_buffer_bytes",
        "limits.state_keys",
        "limits.state_bytes",
        "limits.forwarded_requests",
        "api.keys_file",
        "api.requests_per_second",
        "api.burst",
        "api.attempts_per_minute",
        "webhooks.secret_file",
        "log.level",
        "log.format",
    }
)
#: The certificate can be replaced, but TLS not be switched on or off.
_TLS: Final = frozenset({"server.tls.certificate", "server.tls.key"})


@dataclass(frozen=True, slots=True)
class Merged:
    """`config` is what the gateway runs with from now on.

    `changed` are the keys that differ from before, `waiting` those of the new configuration that
    need a restart; both in the order of the file.
    """

    config: Config
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def merge(running: Config, new: Config) -> Merged:
    """Return what becomes of `running` when `new` is to be taken over."""
    changed: list[str] = []
    waiting: list[str] = []
    replaced = running.server.tls.certificate and new.server.tls.certificate
    reloadable = RELOADABLE | _TLS if replaced else RELOADABLE
    config = _merge(running, new, "", reloadable, changed, waiting)
    return Merged(config, tuple(changed), tuple(waiting))


def _merge(
    running: _Section,
    new: _Section,
    prefix: str,
    reloadable: frozenset[str],
    changed: list[str],
    waiting: list[str],
) -> _Section:
    values: dict[str, Any] = {}
    for setting, section in entries(type(running), prefix):
        before, after = getattr(running, setting.name), getattr(new, setting.name)
        if section is not None:
            values[setting.name] = _merge(
                before, after, setting.key + ".", reloadable, changed, waiting
            )
        elif before != after:
            if setting.key in reloadable:
                changed.append(setting.key)
                values[setting.name] = after
            else:
                waiting.append(setting.key)
    merged: _Section = dataclasses.replace(running, **values)  # type: ignore[type-var]
    return merged
