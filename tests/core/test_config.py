"""Configuration: what is accepted, what is refused, and what the operator is told."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config, entries
from gateway.config_loader import ConfigInvalid, Problem, load_config
from gateway.config_render import render_default
from gateway.config_spec import Setting
from gateway.config_yaml import MAX_FILE_BYTES
from gateway.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
KEY = "k" * 31 + "1"
OTHER_KEY = "m" * 31 + "2"
NOT_WHOLE = "must be a whole number such as 8"
NOT_LIST = "must be a list, in [brackets] or with a dash before each entry"
NO_VALUE = "has no value; give one, or remove the line to keep the default"
NOT_PRINTABLE = "has a line break, a control character or an unusual space in it; remove it"
SECTIONS = (
    "server, static, auth, resume, mailbox, store, presence, rooms, limits, api, admin, "
    + "webhooks, metrics, log, extensions, extensions_path"
)


def load(text: str | bytes, environ: dict[str, str] | None = None) -> Config:
    """Load a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gateway.yaml")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config(path, environ or {})


def problems(text: str | bytes, environ: dict[str, str] | None = None) -> list[str]:
    """Load a bad file; return each problem as a line, without the file's folder."""
    with pytest.raises(ConfigInvalid) as caught:
        load(text, environ)
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    lines = []
    for problem in caught.value.problems:
        source = problem.source.rpartition("/")[2]
        lines.append(str(dataclasses.replace(problem, source=source)))
        assert len(lines[-1].splitlines()) == 1
        lines[-1].encode()
    return lines


def problem(text: str | bytes, environ: dict[str, str] | None = None) -> str:
    """Return the only problem of a bad file."""
    (line,) = problems(text, environ)
    return line


def in_section(key: str, value: str) -> str:
    """Return a file that sets one dotted key to a YAML value."""
    *sections, name = key.split(".")
    opened = "".join(f"{section}: {{" for section in sections)
    return opened + f"{name}: {value}" + "}" * len(sections)


def value_of(config: Config, key: str) -> object:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def all_settings(section: type[Any] = Config, prefix: str = "") -> Iterator[Setting]:
    for setting, inner in entries(section, prefix):
        if inner is None:
            yield setting
        else:
            yield from all_settings(inner, setting.key + ".")


def keys_where(zero: bool) -> list[str]:
    """Return the numeric keys that allow 0, or do not."""
    return [
        setting.key
        for setting in all_settings()
        if isinstance(setting.default, int | float)
        and not isinstance(setting.default, bool)
        and bool(setting.spec.zero) is zero
    ]


# Defaults and rendering


def test_no_file_and_no_variables_give_the_defaults() -> None:
    assert load_config(None, {}) == Config()


INQUIRY = {
    "url": "",
    "secret_file": "",
    "ca_file": "",
    "connect_timeout": 2.0,
    "timeout": 5.0,
    "concurrency": 32,
    "queue": 256,
    "answer_bytes": 16_384,
}


def test_the_embedded_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(Config()) == {
        "server": {
            "host": "127.0.0.1",
            "port": 8080,
            "unix_socket": "",
            "unix_socket_mode": "0660",
            "reuse_port": False,
            "internal": "127.0.0.1:0",
            "public_url": "",
            "allowed_origins": (),
            "trusted_proxies": (),
            "tls": {"certificate": "", "key": ""},
            "backlog": 4096,
            "websocket": "picows",
            "shutdown_grace": 10.0,
            "reconnects_per_second": 500.0,
            "ping_interval": 25.0,
            "ping_timeout": 20.0,
        },
        "static": {"path": "", "index": "index.html"},
        "auth": {
            "methods": ("guest",),
            "password": {"file": "", "database": "", "attempts_per_minute": 10},
            "jwt": {
                "jwks_url": "",
                "key_file": "",
                "algorithms": ("RS256",),
                "issuer": "",
                "audience": (),
                "subject": "sub",
                "prefix": "jwt:",
                "name": "name",
                "attributes": "",
                "leeway": 30.0,
                "jwks_timeout": 5.0,
                "jwks_max_age": 3600.0,
                "jwks_min_interval": 10.0,
                "jwks_bytes": 262144,
            },
            "webhook": {
                **INQUIRY,
                "question_bytes": 8192,
                "attempts_per_minute": 60,
                "accept_other_ids": False,
            },
        },
        "resume": {
            "secret_keys": (),
            "secret_key_file": "",
            "token_lifetime": 604800.0,
            "session_lifetime": 604800.0,
            "probe_timeout": 3.0,
        },
        "mailbox": {
            "max_messages": 1000,
            "max_bytes": 1048576,
            "when_full": "drop_oldest",
            "total_bytes": 1073741824,
            "retention": 604800.0,
            "dedupe_window": 600.0,
            "dedupe_keys": 65536,
        },
        "store": {
            "url": "sqlite:///gateway.db",
            "password": "",
            "password_file": "",
            "node_lease": 5.0,
        },
        "presence": {
            "grace": 30.0,
            "settle": 2.0,
            "interval": 0.2,
            "hidden_policy": "latest",
            "listing": True,
            "max_watched": 1000,
        },
        "limits": {
            "connections": 20000,
            "connections_per_address": 1000,
            "connections_per_player": 16,
            "sessions": 100000,
            "sessions_per_player": 32,
            "revocations": 500_000,
            "new_sessions_per_minute": 30000,
            "message_bytes": 65536,
            "messages_per_second": 200.0,
            "burst": 400,
            "send_buffer_bytes": 262144,
            "state_keys": 1024,
            "state_bytes": 262144,
            "slow_timeout": 30.0,
            "connect_timeout": 10.0,
            "forwarded_requests": 20_000,
            "name_bytes": 64,
        },
        "api": {
            "keys_file": "",
            "requests_per_second": 200.0,
            "burst": 400,
            "attempts_per_minute": 60,
            "broadcasts": 2,
        },
        "admin": {
            "enabled": True,
            "session_lifetime": 3600.0,
            "sessions": 32,
            "attempts_per_minute": 10,
        },
        "webhooks": {
            "url": "",
            "secret_file": "",
            "ca_file": "",
            "timeout": 10.0,
            "concurrency": 8,
            "attempts": 10,
            "max_backoff": 300.0,
            "retention": 259200.0,
            "max_queued": 100_000,
            "max_dead": 1000,
        },
        "rooms": {
            "open": True,
            "max_members": 10000,
            "per_player": 64,
            "rooms": 10000,
            "announce": 256,
            "pending_joins": 8,
            "pending_messages": 1024,
            "webhook": INQUIRY,
        },
        "metrics": {"enabled": True, "listen": ""},
        "log": {"level": "info", "format": "text"},
        "extensions": (),
        "extensions_path": "",
    }


def test_the_rendered_default_loads_as_the_defaults() -> None:
    assert load(render_default()) == Config()


def test_the_shipped_file_is_the_rendered_default() -> None:
    assert (ROOT / "config" / "gateway.yaml").read_bytes() == render_default().encode()


def test_the_rendered_default_shows_every_key_with_its_default() -> None:
    rendered = yaml.safe_load(render_default())
    defaults = yaml.safe_load(yaml.safe_dump(as_plain(Config())))
    assert rendered == defaults


def test_the_rendered_default_has_a_comment_above_every_key() -> None:
    lines = render_default().splitlines()
    uncommented = [
        line
        for before, line in itertools.pairwise(lines)
        if line and not line.strip().startswith("#") and not before.strip().startswith("#")
    ]
    assert uncommented == []
    assert max(map(len, lines)) <= 100


def test_the_rendered_default_names_bounds_choices_units_and_zero() -> None:
    text = " ".join(line.strip().removeprefix("# ") for line in render_default().splitlines())
    assert "Port to listen on. 1 to 65535; 0 = a free port." in text
    assert "Bytes, at least 1024; 0 = no limit." in text
    assert "One of: debug, info, warning, error." in text
    assert "One or more of: guest, password, jwt, webhook." in text
    assert "Seconds; 0 = stop at once." in text
    assert "game-gateway check-config" in text
    assert "GATEWAY_<SECTION>_<KEY>" in text


def test_every_key_has_its_own_variable() -> None:
    variables = [setting.variable for setting in all_settings()]
    assert len(set(variables)) == len(variables)


def test_the_defaults_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~", "server:\nauth: {password: }\n"])
def test_an_empty_file_or_section_gives_the_defaults(text: str) -> None:
    assert load(text) == Config()


def test_given_keys_replace_defaults_and_leave_the_others() -> None:
    config = load("server: {port: 0, ping_interval: 5}\nauth:\n  password:\n    file: /etc/u\n")
    assert config.server.port == 0
    assert config.server.ping_interval == 5.0
    assert config.server.host == "127.0.0.1"
    assert config.auth.password.file == "/etc/u"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    config = load("\ufefflog:\r\n  level: debug\r\n  format: json\r\n")
    assert (config.log.level, config.log.format) == ("debug", "json")


# Keys that exclude each other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "url: 'redis://h', password: x, password_file: y",
            "store.password_file: give either store.password or store.password_file, not both",
        ),
        ("password: x", "store.password: only the store redis:// has a password"),
        (
            "url: 'redis://:x@h', password_file: y",
            "store.password_file: store.url has a password, too; take it out there",
        ),
    ],
)
def test_the_stores_password_comes_from_one_place(text: str, message: str) -> None:
    assert problem(f"store: {{{text}}}") == f"gateway.yaml:1: {message}"


# Unknown keys


def test_an_unknown_key_names_file_line_key_and_the_near_miss() -> None:
    text = "# limits\nlimits:\n  burst: 9\n  conections: 1\n"
    assert problem(text) == (
        'gateway.yaml:4: limits.conections: unknown key; did you mean "connections"?'
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "server: {ping_timout: 1}",
            'server.ping_timout: unknown key; did you mean "ping_timeout"?',
        ),
        (
            "server: {Ping-Timeout: 1}",
            'server.Ping-Timeout: unknown key; did you mean "ping_timeout"?',
        ),
        ("port: 1", 'port: unknown key; did you mean "server.port"?'),
        (
            "server: {message_bytes: 1}",
            'server.message_bytes: unknown key; did you mean "limits.message_bytes"?',
        ),
        (
            "log: {mesage_bytes: 1}",
            'log.mesage_bytes: unknown key; did you mean "limits.message_bytes"?',
        ),
        ("limit: {}", 'limit: unknown key; did you mean "limits"?'),
        ("password: {}", 'password: unknown key; did you mean "store.password"?'),
        ("server.port: 1", 'server.port: unknown key; write "port" in the section "server"'),
        ("server: {log: {}}", 'server.log: unknown key; write "log" without indentation'),
        ("log: {zzz: 1}", "log.zzz: unknown key; known here: level, format"),
        ("log: {}\n8: 1", f"8: unknown key; known here: {SECTIONS}"),
    ],
)
def test_a_misspelt_or_misplaced_key_is_answered_with_the_right_one(text: str, line: str) -> None:
    assert problem(text).split(": ", 1)[1] == line


@pytest.mark.parametrize("key", ['"a\\nb"', '""', "a b", "x" * 32, "secret_keys:[abc]"])
def test_a_key_that_could_hold_more_than_a_name_is_not_repeated(key: str) -> None:
    line = problem(f"? {key}\n: 1\n")
    assert line == f"gateway.yaml:1: (odd key): unknown key; known here: {SECTIONS}"


def test_a_key_given_twice_names_both_lines() -> None:
    text = "server:\n  port: 1\n  port: 2\n"
    assert problem(text) == "gateway.yaml:3: server.port: given twice, first in line 2; remove one"


def test_a_section_given_twice_is_an_error() -> None:
    text = "log: {level: info}\nlog: {format: text}\n"
    assert problem(text) == "gateway.yaml:2: log: given twice, first in line 1; remove one"


def test_a_list_as_a_key_is_an_error() -> None:
    assert problem("? [a]\n: b") == "gateway.yaml:1: has a list or a section for a key"


# Wrong types


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[]", "must hold sections such as server:, is a list"),
        ("hello", "must hold sections such as server:, is a text"),
        ("7", "must hold sections such as server:, is a number"),
        ("server: []", "server: must be a section with keys such as host:, is a list"),
        ("store: memory://", "store: must be a section with keys such as url:, is a text"),
        (
            "auth: {password: x}",
            "auth.password: must be a section with keys such as file:, is a text",
        ),
        ("server: {port: [1]}", f"server.port: {NOT_WHOLE}, is a list"),
        ("server: {port: {}}", f"server.port: {NOT_WHOLE}, is a section"),
        ("server: {port: '1'}", f"server.port: {NOT_WHOLE}, is a quoted text; remove the quotes"),
        ("server: {port: 1.0}", f'server.port: {NOT_WHOLE}, is "1.0"'),
        ("server: {port: 1e3}", f'server.port: {NOT_WHOLE}, is "1e3"'),
        ("server: {port: 0x10}", f'server.port: {NOT_WHOLE}, is "0x10"'),
        ("server: {port: 0644}", f'server.port: {NOT_WHOLE}, is "0644"'),
        ("server: {port: 1:30}", f'server.port: {NOT_WHOLE}, is "1:30"'),
        ("server: {port: true}", f'server.port: {NOT_WHOLE}, is "true"'),
        ("server: {port: }", f"server.port: {NO_VALUE}"),
        ("server: {ping_timeout: false}", 'server.ping_timeout: must be a number, is "false"'),
        ("server: {ping_timeout: 10s}", 'server.ping_timeout: must be a number, is "10s"'),
        ("server: {ping_timeout: .inf}", 'server.ping_timeout: must be a finite number, is ".inf"'),
        ("server: {ping_timeout: .NaN}", 'server.ping_timeout: must be a finite number, is ".NaN"'),
        ("server: {host: 5}", "server.host: must be a text, is a number; put it in quotes"),
        ("server: {host: yes}", "server.host: must be a text, is true or false; put it in quotes"),
        ("server: {host: [a]}", "server.host: must be a text, is a list"),
        ("static: {path: 2020-01-01}", "static.path: must be a text, is a date; put it in quotes"),
        ("auth: {methods: guest}", f"auth.methods: {NOT_LIST}, is a text"),
        (
            "auth: {methods: [1]}",
            "auth.methods: entry 1 must be a text, is a number; put it in quotes",
        ),
        (
            "auth: {methods: [guest, ]}\nserver: {allowed_origins: [~]}",
            "server.allowed_origins: entry 1 is empty; remove it",
        ),
        ("auth: {methods: [[guest]]}", "auth.methods: entry 1 must be a text, is a list"),
        (
            "presence: {listing: yes}",
            'presence.listing: must be true or false, is "yes"; write true',
        ),
        (
            "presence: {listing: Off}",
            'presence.listing: must be true or false, is "Off"; write false',
        ),
        ("presence: {listing: 1}", 'presence.listing: must be true or false, is "1"; write true'),
        ("presence: {listing: maybe}", 'presence.listing: must be true or false, is "maybe"'),
        (
            "presence: {listing: 'true'}",
            "presence.listing: must be true or false, is a quoted text; remove the quotes",
        ),
        ("presence: {listing: }", f"presence.listing: {NO_VALUE}"),
    ],
)
def test_a_value_of_the_wrong_type_says_what_is_wanted_and_found(text: str, line: str) -> None:
    assert problem(text).split(": ", 1)[1] == line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("server.ping_timeout", "7", 7.0),
        ("server.ping_timeout", "1e2", 100.0),
        ("server.ping_timeout", ".5", 0.5),
        ("limits.burst", "1_000", 1000),
        ("limits.burst", "+5", 5),
        ("presence.listing", "False", False),
        ("server.host", "'::1'", "::1"),
        ("static.path", '"/srv/käse spiel"', "/srv/käse spiel"),
        ("auth.methods", "[password, guest]", ("password", "guest")),
    ],
)
def test_a_value_of_the_right_type_is_taken(key: str, value: str, expected: object) -> None:
    found = value_of(load(in_section(key, value)), key)
    assert found == expected
    assert type(found) is type(expected)


# Bounds


@pytest.mark.parametrize("key", keys_where(zero=True))
def test_zero_is_accepted_where_it_has_a_meaning(key: str) -> None:
    rates = {"limits.burst": "messages_per_second", "api.burst": "requests_per_second"}
    together = f", {rates[key]}: 0" if key in rates else ""
    config = load(in_section(key, "0" + together))
    assert value_of(config, key) == 0


def test_the_keys_that_zero_switches_off_are_the_limits_and_a_few_times() -> None:
    limits = {f"limits.{entry.name}" for entry in dataclasses.fields(Config().limits)}
    assert set(keys_where(zero=True)) == limits | {
        "server.port",
        "server.shutdown_grace",
        "server.reconnects_per_second",
        "auth.password.attempts_per_minute",
        "auth.jwt.leeway",
        "auth.webhook.queue",
        "auth.webhook.question_bytes",
        "auth.webhook.attempts_per_minute",
        "mailbox.max_messages",
        "mailbox.max_bytes",
        "mailbox.total_bytes",
        "mailbox.dedupe_window",
        "presence.grace",
        "presence.settle",
        "presence.interval",
        "presence.max_watched",
        "api.requests_per_second",
        "api.burst",
        "api.attempts_per_minute",
        "api.broadcasts",
        "admin.sessions",
        "admin.attempts_per_minute",
        "webhooks.retention",
        "webhooks.max_queued",
        "webhooks.max_dead",
        "rooms.announce",
        "rooms.max_members",
        "rooms.per_player",
        "rooms.pending_joins",
        "rooms.pending_messages",
        "rooms.rooms",
        "rooms.webhook.queue",
    }


@pytest.mark.parametrize("key", keys_where(zero=False))
def test_zero_is_refused_elsewhere(key: str) -> None:
    line = problem(in_section(key, "0"))
    assert f"{key}: must be at least" in line


@pytest.mark.parametrize("key", keys_where(zero=False) + keys_where(zero=True))
def test_negative_numbers_are_refused(key: str) -> None:
    assert f"{key}: must be at least" in problem(in_section(key, "-1"))


@pytest.mark.parametrize("key", keys_where(zero=False) + keys_where(zero=True))
@pytest.mark.parametrize("value", ["9" * 25, "9" * 5000])
def test_enormous_numbers_are_refused(key: str, value: str) -> None:
    assert f"{key}: must be at most" in problem(in_section(key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("server.port", "65536", 'must be at most 65535, is "65536"'),
        ("server.port", "-1", 'must be at least 1, or 0 (a free port), is "-1"'),
        ("limits.message_bytes", "1023", 'must be at least 1024, or 0 (no limit), is "1023"'),
        ("mailbox.retention", "1e999", 'must be at most 315360000, is "1e999"'),
        ("server.ping_interval", "0.0", 'must be at least 0.001, is "0.0"'),
        ("store.node_lease", "0.5", 'must be at least 1, is "0.5"'),
        (
            "limits.burst",
            "9007199254740992",
            'must be at most 9007199254740991, is "9007199254740992"',
        ),
    ],
)
def test_a_number_out_of_bounds_names_the_bound(key: str, value: str, message: str) -> None:
    assert problem(in_section(key, value)) == f"gateway.yaml:1: {key}: {message}"


# Texts with a form


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.host", "0.0.0.0"),
        ("server.host", "::"),
        ("server.host", "fe80::1%eth0"),
        ("server.host", "game_server.internal"),
        ("server.public_url", "https://game.example"),
        ("server.public_url", "http://[::1]:8080"),
        ("webhooks.url", "http://127.0.0.1:9000"),
        ("webhooks.url", "https://backend.example/hooks?game=1"),
        ("auth.webhook.url", "http://127.0.0.1:9000"),
        ("auth.webhook.url", "https://backend.example/auth?game=1"),
        ("metrics.listen", "127.0.0.1:9100"),
        ("server.internal", "127.0.0.1:0"),
        ("server.internal", "[fd00::1]:9000"),
        ("server.internal", "node-1.internal:9000"),
        ("metrics.listen", "[::1]:0"),
        ("metrics.listen", "metrics.internal:9100"),
        ("static.index", "start.html"),
        ("log.level", "warning"),
        ("auth.jwt.jwks_url", "https://id.example/.well-known/jwks.json"),
        ("auth.jwt.jwks_url", "https://id.example:8443/keys?tenant=game"),
        ("auth.jwt.jwks_url", "http://127.0.0.1:8080/keys"),
        ("auth.jwt.jwks_url", "http://[::1]/keys"),
        ("auth.jwt.prefix", "player/"),
        ("auth.jwt.subject", "https://game.example/id"),
    ],
)
def test_a_well_formed_text_is_taken(key: str, value: str) -> None:
    assert value_of(load(in_section(key, f'"{value}"')), key) == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("server.host", "", "must not be empty without server.unix_socket"),
        ("server.unix_socket", "/" + "a" * 103, "has 104 bytes; the path of a socket has 103"),
        ("server.unix_socket", "/run/", "must be the path of a file"),
        ("server.unix_socket_mode", "0999", "must be three octal digits"),
        ("server.unix_socket_mode", "u=rw", "must be three octal digits"),
        ("server.host", "[::1]", "must be an IP address or a host name"),
        ("server.host", "1.2.3.4.5", "must be an IP address or a host name"),
        ("server.host", "a..b", "must be an IP address or a host name"),
        ("server.host", "a" * 254, "must be an IP address or a host name"),
        ("server.host", "http://x", "must be an IP address or a host name"),
        ("server.host", "a\\0b", "has a line break, a control character"),
        ("server.host", "\\ud800", "has a line break, a control character"),
        ("webhooks.url", "backend.example", "must be http:// or https:// with a host"),
        ("webhooks.url", "https://me:pw@backend.example", "must be http:// or https://"),
        ("webhooks.url", "https://backend.example/#a", "must be http:// or https://"),
        ("webhooks.url", "https://backend.example/a b", "must be http:// or https://"),
        ("webhooks.url", "https://backend.example:99999/", "names port 99999"),
        ("server.public_url", "game.example", "must begin with http:// or https://"),
        ("server.public_url", "*", "must begin with http:// or https://"),
        ("server.public_url", "ws://game.example", "must begin with http:// or https://"),
        ("server.public_url", "https://game.example/", "without user, path or final slash"),
        ("server.public_url", "https://game.example/x?y", "without user, path or final slash"),
        ("server.public_url", "https://me:pw@game.example", "without user, path or final slash"),
        ("server.public_url", "https://[::1", "must be scheme://host"),
        ("server.public_url", "https://[abc]", "must be scheme://host"),
        ("server.public_url", "https://Game.Example:443", 'write "https://game.example"'),
        ("server.public_url", "http://game.example:65536", "names port 65536; ports end at 65535"),
        ("auth.webhook.url", "backend.example", "must be http:// or https:// with a host"),
        ("auth.webhook.url", "https://me:pw@backend.example", "must be http:// or https://"),
        ("auth.webhook.url", "https://backend.example:99999/", "names port 99999"),
        ("server.internal", "9000", "must be HOST:PORT"),
        ("server.internal", "0.0.0.0:9000", "must name the address at which the other gateways"),
        ("server.internal", "[::]:0", "must name the address at which the other gateways"),
        ("metrics.listen", "9100", "must be HOST:PORT"),
        ("metrics.listen", "::1:9100", "must be HOST:PORT"),
        ("metrics.listen", ":9100", "must be HOST:PORT"),
        ("metrics.listen", "localhost:x", "must be HOST:PORT"),
        ("metrics.listen", "localhost:70000", "names port 70000; ports end at 65535"),
        ("static.index", "", "must not be empty"),
        ("static.index", "../index.html", "must be the name of a file"),
        ("static.index", "..", "must be the name of a file"),
        ("auth.jwt.jwks_url", "http://id.example/keys", "must begin with https://, or anybody"),
        ("auth.jwt.jwks_url", "id.example/keys", "must be an URL such as https://"),
        ("auth.jwt.jwks_url", "file:///etc/passwd", "must be an URL such as https://"),
        ("auth.jwt.jwks_url", "https://", "must be an URL such as https://"),
        ("auth.jwt.jwks_url", "https://a b/keys", "must be an URL such as https://"),
        ("auth.jwt.jwks_url", "https://x:y@id.example/", "must have no user, password"),
        ("auth.jwt.jwks_url", "https://id.example:99999/", "has an impossible port"),
        ("auth.jwt.prefix", "", "must not be empty"),
        ("auth.jwt.prefix", "p", "must not begin like"),
        ("auth.jwt.prefix", "p_x", "must not begin like"),
        ("auth.jwt.prefix", "a b", "must be 1 to 32 characters"),
        ("auth.jwt.subject", "", "must not be empty"),
        ("auth.jwt.subject", "x" * 257, "a claim's name has 256 at most"),
        ("store.url", "sqlite://x", 'must be "memory://", "sqlite:///FILE"'),
        ("store.url", "sqlite:///x/", "names no file"),
        ("store.url", "sqlite:///x?synchronous=OFF", "it must be FULL or NORMAL"),
        ("store.url", "sqlite:///x?mode=ro", 'has an unknown option "mode"'),
        ("store.url", "redis://", 'must be "redis://HOST:PORT"'),
        ("store.url", "mem://", 'must be "memory://"'),
        ("store.url", "memory://x", 'must be "memory://"'),
        (
            "log.level",
            "warn",
            'must be one of debug, info, warning, error, is "warn"; did you mean "warning"?',
        ),
        ("log.format", "INFO", 'must be one of text, json, is "INFO"'),
    ],
)
def test_a_malformed_text_says_how_to_write_it(key: str, value: str, message: str) -> None:
    line = problem(in_section(key, f'"{value}"'))
    assert line.startswith(f"gateway.yaml:1: {key}: ")
    assert message in line


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("server.allowed_origins", ["*"]),
        ("server.allowed_origins", ["https://game.example", "http://localhost:3000"]),
        ("server.allowed_origins", ["capacitor://localhost", "http://[::1]:8080"]),
        ("server.trusted_proxies", ["127.0.0.1", "::1", "10.0.0.0/8", "fd00::/8", "unix"]),
        ("resume.secret_keys", [KEY, OTHER_KEY]),
        ("auth.methods", ["guest", "password"]),
        ("server.allowed_origins", []),
    ],
)
def test_a_well_formed_list_is_taken_in_order(key: str, values: list[str]) -> None:
    text = yaml.safe_dump(values, default_flow_style=True)
    assert value_of(load(in_section(key, text)), key) == tuple(values)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("server.allowed_origins", "['*', game.example]", "entry 2 must be scheme://host"),
        ("server.allowed_origins", "[https://game.example/]", "without user, path or final slash"),
        ("server.allowed_origins", '["null"]', "entry 1 must be scheme://host"),
        ("server.allowed_origins", "['https://A.example']", 'write "https://a.example"'),
        ("server.allowed_origins", "['http://a.example:080']", 'write "http://a.example:80"'),
        ("server.allowed_origins", "['*', '*']", "entry 2 repeats entry 1; remove one"),
        ("server.allowed_origins", "['']", "entry 1 must not be empty"),
        ("server.trusted_proxies", "[proxy]", "entry 1 must be an IP address or a network"),
        ("server.trusted_proxies", "[10.0.0.0/33]", "entry 1 must be an IP address or a network"),
        (
            "server.trusted_proxies",
            "[10.1.0.0/8]",
            'has bits set beyond its prefix; write "10.0.0.0/8"',
        ),
        ("auth.methods", "[]", "must have at least one entry"),
        ("auth.methods", "[guest, guest]", "entry 2 repeats entry 1; remove one"),
        ("auth.methods", "[jwts]", 'is "jwts"; did you mean "jwt"?'),
        ("auth.jwt.algorithms", "[RS265]", 'is "RS265"; did you mean "RS256"?'),
        ("auth.jwt.algorithms", "[none]", "entry 1 must be one of RS256, "),
        ("auth.methods", "[webhooks]", 'is "webhooks"; did you mean "webhook"?'),
        ("extensions", "[a/b]", "must be the name of a module, such as referee"),
        ("extensions", "[..]", "must be the name of a module, such as referee"),
        ("auth.methods", "[gest]", 'is "gest"; did you mean "guest"?'),
    ],
)
def test_a_malformed_list_entry_is_named(key: str, value: str, message: str) -> None:
    line = problem(in_section(key, value))
    assert line.startswith(f"gateway.yaml:1: {key}: ")
    assert message in line


def test_an_entry_is_reported_in_its_own_line() -> None:
    text = "server:\n  trusted_proxies:\n    - 10.0.0.1\n    - nonsense\n    - worse\n"
    assert [line.split(": ")[0] for line in problems(text)] == ["gateway.yaml:4", "gateway.yaml:5"]


# Values that contradict each other


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("limits: {burst: 0}", "limits.burst: limits.burst must be at least 1"),
        ("api: {burst: 0}", "api.burst: api.burst must be at least 1"),
        (
            "auth: {password: {file: a, database: b}}",
            "auth.password.database: give either auth.password.file or auth.password.database",
        ),
        (
            "auth: {methods: [webhook]}",
            "auth.methods: auth.webhook.url must be given with the method webhook",
        ),
        (
            "rooms: {webhook: {url: 'https://a.example'}}",
            "rooms.webhook.url: nobody is asked while any player may join; set rooms.open to false",
        ),
        (
            "auth: {webhook: {url: 'https://a.example', timeout: 10}}",
            "auth.webhook.timeout: auth.webhook.timeout (10) must be below limits.connect_timeout",
        ),
        (
            "mailbox: {max_bytes: 1000}",
            "mailbox.max_bytes: impossible value: mailbox.max_bytes (1000) must be at least "
            "limits.message_bytes (65536 + 1024)",
        ),
        ("mailbox: {total_bytes: 1000}", "mailbox.total_bytes: impossible value"),
        ("limits: {send_buffer_bytes: 1000}", "limits.send_buffer_bytes: impossible value"),
        (
            "limits: {message_bytes: 300000}",
            "limits.message_bytes: impossible value: limits.send_buffer_bytes (262144)",
        ),
        (
            "auth: {methods: [jwt], jwt: {issuer: i, audience: [a]}}",
            "auth.methods: jwt needs auth.jwt.jwks_url or auth.jwt.key_file: without it nothing",
        ),
        (
            "auth: {methods: [jwt], jwt: {key_file: k, audience: [a]}}",
            "auth.methods: jwt needs auth.jwt.issuer: without it tokens of anybody",
        ),
        (
            "auth: {methods: [jwt], jwt: {key_file: k, issuer: i}}",
            "auth.methods: jwt needs auth.jwt.audience: without it a token for any other",
        ),
        (
            "auth: {jwt: {algorithms: [RS256, HS256]}}",
            "auth.jwt.algorithms: HS256 has a secret and others of the list a public key",
        ),
        (
            "auth: {jwt: {algorithms: [HS512], jwks_url: 'https://id.example/keys'}}",
            "auth.jwt.algorithms: HS512 needs a secret, and what auth.jwt.jwks_url publishes",
        ),
        (
            "auth: {jwt: {key_file: k, jwks_url: 'https://id.example/keys'}}",
            "auth.jwt.key_file: give either auth.jwt.jwks_url or auth.jwt.key_file, not both",
        ),
        (
            "auth: {jwt: {jwks_max_age: 5}}",
            "auth.jwt.jwks_max_age: auth.jwt.jwks_min_interval must not be longer",
        ),
        ("server: {host: ''}", "server.host: must not be empty without server.unix_socket"),
        ("server: {tls: {key: k}}", "server.tls.key: server.tls needs both certificate and key"),
        (
            "server: {tls: {certificate: c}}",
            "server.tls.certificate: server.tls needs both certificate and key",
        ),
        (
            "server: {public_url: 'http://a.example', tls: {certificate: c, key: k}}",
            "server.public_url: must begin with https://, for server.tls is given",
        ),
        (
            "metrics: {listen: '127.0.0.1:8080'}",
            "metrics.listen: this is the main listener's address",
        ),
    ],
)
def test_values_that_cannot_go_together_are_refused(text: str, start: str) -> None:
    assert problem(text).split(": ", 1)[1].startswith(start)


@pytest.mark.parametrize(
    "text",
    [
        "limits: {burst: 0, messages_per_second: 0}",
        "api: {burst: 0, requests_per_second: 0}",
        "mailbox: {max_bytes: 0, total_bytes: 0}\nlimits: {send_buffer_bytes: 0}",
        "limits: {message_bytes: 0}\nmailbox: {max_bytes: 1000}",
        "limits: {message_bytes: 1024}\nmailbox: {max_bytes: 2048}",
        "resume: {token_lifetime: 100, session_lifetime: 10}",
        "server: {port: 0}\nmetrics: {listen: '127.0.0.1:0'}",
        "server: {host: '', unix_socket: gateway.sock}",
        "server: {public_url: 'https://a.example', tls: {certificate: c, key: k}}",
    ],
)
def test_values_that_look_odd_together_but_work_are_accepted(text: str) -> None:
    assert load(text) != Config()


def test_keys_and_a_key_file_together_are_refused_without_showing_the_keys() -> None:
    line = problem(f"resume:\n  secret_keys: [{KEY}]\n  secret_key_file: keys\n")
    assert line.startswith("gateway.yaml:3: resume.secret_key_file: give either")
    assert KEY not in line


def test_a_contradiction_is_not_reported_on_top_of_a_broken_value() -> None:
    text = "limits: {message_bytes: x}\nmailbox: {max_bytes: 10}\n"
    assert problem(text).startswith("gateway.yaml:1: limits.message_bytes: must be a whole number")


def test_a_contradiction_through_a_variable_names_the_variable() -> None:
    line = problem("mailbox: {retention: 5}", {"GATEWAY_LIMITS_BURST": "0"})
    assert line.startswith("GATEWAY_LIMITS_BURST: limits.burst: ")


# All problems at once


def test_all_problems_are_reported_in_the_order_of_the_file() -> None:
    text = "prot: 1\nserver:\n  port: 0\n  host: 5\nlimits:\n  burst: 0\nlog: []\n"
    lines = problems(text, {"GATEWAY_LOG_LEVEL": "loud", "GATEWAY_LOG_LEVL": "info"})
    assert [line.split(": ")[0] for line in lines] == [
        "gateway.yaml:1",
        "gateway.yaml:4",
        "gateway.yaml:6",
        "gateway.yaml:7",
        "GATEWAY_LOG_LEVEL",
        "GATEWAY_LOG_LEVL",
    ]


def test_problems_can_be_read_by_programs() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_config(None, {"GATEWAY_SERVER_PORT": "x"})
    message = f'{NOT_WHOLE}, is "x"'
    assert caught.value.problems == (Problem("GATEWAY_SERVER_PORT", None, "server.port", message),)


# Files that are not YAML


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: b: c", "1:5", "a key is not allowed here"),
        ("server:\n  port: 1\n   host: x", "3:8", "a key is not allowed here"),
        ("server:\n\tport: 1", "2:1", "a tab cannot indent a line"),
        ("server: {port: 1", "1:17", "a section that began with { needs"),
        ("a: [1", "1:6", "a list that began with [ needs"),
        ("a: ]", "1:4", "a value or a closing bracket is missing here"),
        ('a: "x', "1:6", "a quoted text is not closed"),
        ('a: "\\x', "1:7", "is not valid YAML"),
        ('a: "\\q"', "1:6", "a backslash in double quotes is an escape"),
        ("a: @x", "1:4", "a value cannot begin with this character"),
        ("a\nb: 1", "2:2", "a key is not allowed here"),
        ("a: 1\nb\n", "3:1", "a key needs a colon and a space after it"),
        ("a: 1\n- b", "2:1", "this does not belong here"),
        ("a: - b", "1:4", "a list entry (-) is not allowed here"),
        ("--- {}\n--- {}", "2:1", "only one YAML document"),
        ("a: \x01", "1:4", "may not hold the control character U+0001"),
        ("a: 1\n\x00", "2:1", "may not hold the control character U+0000"),
        ('a: "\\U99999999"', "1:7", "is not valid YAML"),
        ("%YAML 1" + "1" * 5000 + ".1\n--- {}", "1:7", "is not valid YAML"),
    ],
)
def test_a_syntax_error_names_line_and_column_in_plain_words(
    text: str, place: str, message: str
) -> None:
    line = problem(text)
    assert line.startswith(f"gateway.yaml:{place}: ")
    assert message in line


@pytest.mark.parametrize("text", ["a: *b", "a: [*]", "a: &b 1", "&b {a: 1}", "a: &b\nc: *b"])
def test_anchors_and_aliases_are_refused(text: str) -> None:
    assert "anchors and aliases (& and *) are not supported" in problem(text)


def test_merge_keys_are_refused() -> None:
    line = problem("log:\n  <<: {level: info}\n")
    assert line == "gateway.yaml:2: log.<<: merge keys are not supported; write the keys out"


@pytest.mark.parametrize(
    "text", ["a: !x 1", "a: !!python/name:os.system ''", "a: !x!y 1", "!!map {}", "a: !<x> 1"]
)
def test_tags_are_refused(text: str) -> None:
    assert "tags (!) are not supported" in problem(text)


def test_deep_nesting_is_refused() -> None:
    assert "nested too deeply" in problem("[ " * 3000)


@pytest.mark.parametrize(
    "text",
    [
        "resume: {secret_keys: *SECRET}",
        "resume: {secret_keys: [&SECRET x]}",
        "resume: {secret_keys: [!SECRET x]}",
        "resume: {secret_keys: [!SECRET!x y]}",
        "resume: {secret_keys: [SECRET}",
        "resume: {secret_keys: [{SECRET: 1}]}",
        "resume: {secret_keys: {SECRET: 1}}",
        "resume: {secret_keys: [[SECRET]]}",
        "resume: {secret_keys: [SECRET]}",
        "resume: {secret_keys: SECRET}",
        f"resume: {{secret_keys: [{'SECRET' * 6}, {'SECRET' * 6}]}}",
        'resume: {secret_keys: ["SECRETSECRETSECRETSECRETSECRETSECRET\\n"]}',
        "resume:\n- SECRET",
        "resume: {secret_keys:[SECRET]: x}",
        "resume:\n  secret_keys:[SECRET]: x",
        f"resume: {{{'SECRET' * 6}: x}}",
        "resume: SECRET",
        'resume: {secret_keys: ["SECRET\\q"]}',
        "store: {url: 'redis://:SECRET@host/x'}",
        "store: {url: 'redis://host', password: [SECRET]}",
        "store: {password: SECRET}",
        "store: {url: 'redis://:SECRET@host', password: SECRET}",
        "server: {public_url: 'https://x:SECRET@host'}",
    ],
)
def test_no_message_repeats_a_secret_of_the_file(text: str) -> None:
    assert "SECRET" not in " ".join(problems(text))


@pytest.mark.parametrize("value", ["SECRET", KEY + ",SECRET", "SECRET" * 6 + "\x00", "SECRET" * 6])
def test_no_message_repeats_a_secret_of_a_variable(value: str) -> None:
    environ = {"GATEWAY_RESUME_SECRET_KEYS": value, "GATEWAY_RESUME_SECRET_KEY_FILE": "x"}
    assert "SECRET" not in " ".join(problems("", environ)).replace("GATEWAY_RESUME_SECRET", "")


def test_the_repr_of_a_configuration_shows_no_secret() -> None:
    config = load(f"resume: {{secret_keys: [{KEY}]}}\nstore: {{url: 'redis://:{KEY}@host'}}")
    assert config.resume.secret_keys == (KEY,)
    assert KEY in config.store.url
    assert KEY not in repr(config)
    assert KEY not in repr(config.resume)


def test_every_secret_key_is_hidden_from_reprs() -> None:
    secret = [setting.key for setting in all_settings() if setting.spec.secret]
    assert secret == ["resume.secret_keys", "store.password"]
    assert "secret_keys" not in repr(Config())
    assert "password=" not in repr(Config().store)


# Files that cannot be read


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_config(tmp_path / "none.yaml", {})
    assert str(caught.value) == f"{tmp_path}/none.yaml: there is no such file; check the path"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="is a directory; name the file in it"):
        load_config(tmp_path, {})


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # The mode of a file does not stop root, who may run the tests.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigInvalid, match="may not be read by this user"):
        load_config(tmp_path / "gateway.yaml", {})


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/below"])
def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigInvalid, match="cannot be read") as caught:
        load_config(tmp_path / name, {})
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_utf_8_is_refused_with_its_line() -> None:
    line = problem(b"# caf\xc3\xa9\nlog:\n  level: caf\xe9\n")
    assert line == "gateway.yaml:3: is not UTF-8 text; save it in that encoding"


def test_a_file_above_one_mebibyte_is_refused() -> None:
    assert load(b"#" * MAX_FILE_BYTES) == Config()
    assert "is larger than 1048576 bytes" in problem(b"#" * (MAX_FILE_BYTES + 1))


def test_loading_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.yaml"
    path.write_text("resume: {secret_key_file: missing/keys}\nstatic: {path: missing}\n")
    load_config(path, {})
    assert list(tmp_path.iterdir()) == [path]


# Variables


@pytest.mark.parametrize(
    ("variable", "value", "key", "expected"),
    [
        ("GATEWAY_SERVER_PORT", " 0 ", "server.port", 0),
        ("GATEWAY_SERVER_PING_INTERVAL", "0.3", "server.ping_interval", 0.3),
        ("GATEWAY_PRESENCE_LISTING", "false", "presence.listing", False),
        ("GATEWAY_AUTH_PASSWORD_FILE", "/etc/users", "auth.password.file", "/etc/users"),
        ("GATEWAY_AUTH_METHODS", "guest, password", "auth.methods", ("guest", "password")),
        ("GATEWAY_SERVER_ALLOWED_ORIGINS", "", "server.allowed_origins", ()),
        ("GATEWAY_SERVER_ALLOWED_ORIGINS", "*", "server.allowed_origins", ("*",)),
        ("GATEWAY_STATIC_PATH", "", "static.path", ""),
        ("GATEWAY_STATIC_PATH", "8080", "static.path", "8080"),
        (
            "GATEWAY_RESUME_SECRET_KEYS",
            f"{KEY},{OTHER_KEY}",
            "resume.secret_keys",
            (KEY, OTHER_KEY),
        ),
        (
            "GATEWAY_RESUME_SECRET_KEYS",
            f"{KEY}\n{OTHER_KEY}\n",
            "resume.secret_keys",
            (KEY, OTHER_KEY),
        ),
    ],
)
def test_a_variable_overrides_the_file(
    variable: str, value: str, key: str, expected: object
) -> None:
    text = "server: {port: 5, allowed_origins: ['https://a.example']}\nstatic: {path: x}\n"
    assert value_of(load(text, {variable: value}), key) == expected


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "GATEWAY_SERVER_PORT",
            "tcp://10.0.0.1:8080",
            f'server.port: {NOT_WHOLE}, is "tcp://10.0.0.1:8080"',
        ),
        ("GATEWAY_SERVER_PORT", "", f'server.port: {NOT_WHOLE}, is ""'),
        ("GATEWAY_SERVER_PORT", "70000", 'server.port: must be at most 65535, is "70000"'),
        (
            "GATEWAY_SERVER_HOST",
            "",
            "server.host: must not be empty without server.unix_socket: nothing would listen",
        ),
        (
            "GATEWAY_PRESENCE_LISTING",
            "1",
            'presence.listing: must be true or false, is "1"; write true',
        ),
        (
            "GATEWAY_AUTH_METHODS",
            "guest,webhook",
            "auth.methods: auth.webhook.url must be given with the method webhook",
        ),
        ("GATEWAY_AUTH_METHODS", ",", "auth.methods: must have at least one entry"),
        ("GATEWAY_LOG_LEVEL", "\udce9", f"log.level: {NOT_PRINTABLE}"),
        ("GATEWAY_SERVER_PORT", "\udce9", f'server.port: {NOT_WHOLE}, is "\\udce9"'),
        ("GATEWAY_SERVER_PORTS", "1", "unknown variable; did you mean GATEWAY_SERVER_PORT?"),
        ("GATEWAY_LOG_PORT", "1", "unknown variable; did you mean GATEWAY_SERVER_PORT?"),
        (
            "GATEWAY_AUTH_PASSWORDS",
            "x",
            "unknown variable; did you mean GATEWAY_AUTH_PASSWORD_FILE?",
        ),
        (
            "GATEWAY_STORE",
            "x",
            "unknown variable; known for store: GATEWAY_STORE_URL, GATEWAY_STORE_PASSWORD, "
            "GATEWAY_STORE_PASSWORD_FILE, GATEWAY_STORE_NODE_LEASE",
        ),
        (
            "GATEWAY_LOG_ZZZ",
            "x",
            "unknown variable; known for log: GATEWAY_LOG_LEVEL, GATEWAY_LOG_FORMAT",
        ),
    ],
)
def test_a_wrong_variable_is_named_with_the_fix(variable: str, value: str, message: str) -> None:
    assert problem("", {variable: value}) == f"{variable}: {message}"


@pytest.mark.parametrize(
    "variable",
    [
        "GATEWAY_HOME",
        "GATEWAY_",
        "GATEWAY",
        "SERVER_PORT",
        "gateway_server_port",
        "GATEWAYSERVER_PORT",
        "GATEWAY_PORT",
    ],
)
def test_variables_of_others_are_ignored(variable: str) -> None:
    assert load_config(None, {variable: "x"}) == Config()


def test_a_broken_value_in_the_file_is_reported_although_a_variable_overrides_it() -> None:
    line = problem("server: {port: x}", {"GATEWAY_SERVER_PORT": "1"})
    assert line.startswith("gateway.yaml:1: server.port: ")


# Properties


def outcome_of(content: str | bytes, environ: dict[str, str]) -> Config | ConfigInvalid:
    """Return what loading ended in; anything but a ConfigInvalid is not caught."""
    try:
        return load(content, environ)
    except ConfigInvalid as error:
        return error


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_content_of_a_file_raises_anything_but_a_config_error(content: bytes) -> None:
    outcome = outcome_of(content, {})
    assert outcome == Config() or str(outcome)


YAML_WORDS = (
    "server",
    "port",
    "auth",
    "methods",
    "resume",
    "secret_keys",
    "yes",
    "0x",
    ".inf",
    "é",
)
YAML_SIGNS = (": ", "\n  ", "- ", ", ", "&a ", "*a", "!!", "? ", "<<", "---", "...", "\\U", "\\x")
YAML_PIECES = st.sampled_from(
    [*YAML_WORDS, *YAML_SIGNS, *":\n[]{}\"'#!|>%@~\\\t\r1.\x85\u2028\ufeff"]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(YAML_PIECES, max_size=30).map("".join))
def test_no_piece_of_yaml_raises_anything_but_a_config_error(text: str) -> None:
    outcome = outcome_of(text, {})
    if isinstance(outcome, ConfigInvalid):
        assert outcome.problems
        assert all(len(str(each).splitlines()) == 1 for each in outcome.problems)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([setting.variable for setting in all_settings()])
        | st.text("ABC_\u00e9\n", max_size=8).map("GATEWAY_SERVER_{}".format),
        st.text(max_size=20),
        max_size=5,
    )
)
def test_no_variable_raises_anything_but_a_config_error(environ: dict[str, str]) -> None:
    outcome = outcome_of("", environ)
    if isinstance(outcome, ConfigInvalid):
        assert len(str(outcome).splitlines()) == len(outcome.problems) > 0


def as_plain(config: object) -> Any:
    """Return the configuration as YAML knows it: tuples become lists."""
    if dataclasses.is_dataclass(config):
        return {
            entry.name: as_plain(getattr(config, entry.name))
            for entry in dataclasses.fields(config)
        }
    return list(config) if isinstance(config, tuple) else config


def valid_values(setting: Setting) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a key that go with all other defaults."""
    spec, default = setting.spec, setting.default
    examples: dict[str, st.SearchStrategy[Any]] = {
        "server.host": st.ip_addresses().map(str),
        "server.public_url": st.sampled_from(["", "https://game.example", "https://[::1]:8080"]),
        "server.unix_socket": st.sampled_from(["", "/run/gateway.sock", "~", "#"]),
        "server.unix_socket_mode": st.sampled_from(["0660", "666"]),
        "server.tls.certificate": st.just("gateway.crt"),
        "server.tls.key": st.just("gateway.key"),
        "server.allowed_origins": st.just(("*",)),
        "server.trusted_proxies": st.lists(
            st.ip_addresses().map(str) | st.just("unix"), unique=True
        ).map(tuple),
        "resume.secret_keys": st.lists(
            st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=32),
            unique=True,
        ).map(tuple),
        "resume.secret_key_file": st.just(""),
        "store.url": st.just("rediss://h"),
        "store.password_file": st.just(""),
        "server.internal": st.sampled_from(["[::1]:0", "example:65535"]),
        "metrics.listen": st.sampled_from(["", "[::1]:1", "example:65535"]),
        "webhooks.url": st.sampled_from(["", "https://backend.example/hooks?game=1"]),
        "static.index": st.sampled_from(["index.html", "yes", "1", "~", "#a", "- b"]),
        # Values that must fit together get a range in which they do.
        "auth.password.database": st.just(""),
        "auth.webhook.url": st.just("https://backend.example/auth?game=1"),
        "auth.webhook.timeout": st.floats(0.001, 9.0),
        "limits.connect_timeout": st.just(0) | st.floats(9.5, 100.0),
        "rooms.webhook.url": st.just(""),
        "limits.message_bytes": st.integers(1024, 262_144 - 1024),
        "limits.send_buffer_bytes": st.just(0) | st.integers(262_144, 2**53 - 1),
        "mailbox.max_bytes": st.just(0) | st.integers(262_144, 2**53 - 1),
        "mailbox.total_bytes": st.just(0) | st.integers(262_144, 2**53 - 1),
        "auth.methods": st.just(("guest", "password")),
        "auth.jwt.jwks_url": st.just("https://id.example/keys"),
        "auth.jwt.key_file": st.just(""),
        "auth.jwt.algorithms": st.just(("ES256", "EdDSA")),
        "auth.jwt.audience": st.just(("game", "yes", "1")),
        "auth.jwt.subject": st.sampled_from(["sub", "https://game.example/id"]),
        "extensions": st.sampled_from([(), ("referee",), ("game.referee", "yes", "_1")]),
        "auth.jwt.prefix": st.sampled_from(["jwt:", "~", "#", "-"]),
        "auth.jwt.name": st.sampled_from(["name", "no", "7"]),
        "auth.jwt.attributes": st.sampled_from(["", "game"]),
        "auth.jwt.jwks_min_interval": st.floats(0.001, 10),
        "auth.jwt.jwks_max_age": st.floats(10, 1e6),
        "limits.burst": st.integers(1, 2**53 - 1),
        "api.burst": st.integers(1, 2**53 - 1),
    }
    if setting.key in examples:
        return examples[setting.key]
    if spec.choices:
        choice = st.sampled_from(spec.choices)
        if isinstance(default, tuple):
            return st.lists(choice, min_size=1, unique=True).map(tuple)
        return choice
    zero = [st.just(type(default)(0))] if spec.zero else []  # type: ignore[call-arg]
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return st.one_of(*zero, st.integers(math.ceil(spec.minimum), int(spec.maximum)))
    if isinstance(default, float):
        return st.one_of(*zero, st.floats(spec.minimum, spec.maximum))
    return st.text(st.characters(exclude_categories=["C", "Z"], codec="utf-8"))


def valid_sections(section: type[Any], prefix: str = "") -> st.SearchStrategy[Any]:
    return st.builds(
        section,
        **{
            setting.name: valid_values(setting)
            if inner is None
            else valid_sections(inner, setting.key + ".")
            for setting, inner in entries(section, prefix)
        },
    )


@settings(max_examples=50, deadline=None)
@given(valid_sections(Config))
def test_any_valid_configuration_survives_being_written_as_yaml(config: Config) -> None:
    assert load(yaml.safe_dump(as_plain(config), allow_unicode=True)) == config


def test_with_extensions_methods_may_have_any_name() -> None:
    config = load("extensions: [badges]\nauth: {methods: [guest, badge]}")
    assert (config.extensions, config.auth.methods) == (("badges",), ("guest", "badge"))
    line = problem("auth: {methods: [guest, badge]}")
    assert line == (
        "gateway.yaml:1: auth.methods: entry 2 must be one of guest, password, jwt, webhook, "
        'is "badge"'
    )
