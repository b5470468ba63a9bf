"""Log lines: one JSON object each where asked, and never a secret in them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from tornado.httpclient import HTTPResponse

from gateway.logs import JsonFormatter
from tests.gateway_process import ROOT, TIMEOUT, GatewayProcess, own_environment, run
from tests.transport.client import Clients, Player, connect_refused, endpoint

KEY = "0123456789abcdef" * 3
PASSWORD = "correct horse battery"
WRONG = "battery staple horse"

PROGRAM = """
import logging, sys
from gateway.config import LogConfig
from gateway.logs import configure_logging
configure_logging(LogConfig(level=sys.argv[1], format=sys.argv[2]))
log = logging.getLogger("gateway.x")
log.debug("fine"); log.info("na\\u00efve"); log.warning("two\\nlines"); log.error("%s", "bad")
"""


def lines_of(level: str, form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, level, form],
        env=own_environment(PYTHONPATH=str(ROOT), PYTHONUTF8="1"),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b""
    return done.stderr.decode().splitlines()


def test_json_lines_are_one_object_each() -> None:
    records = [json.loads(line) for line in lines_of("debug", "json")]
    assert [(record["level"], record["message"]) for record in records] == [
        ("debug", "fine"),
        ("info", "na\u00efve"),
        ("warning", "two\nlines"),
        ("error", "bad"),
    ]
    for record in records:
        assert set(record) == {"time", "level", "logger", "message"}
        assert record["logger"] == "gateway.x"
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None


def test_a_json_line_has_what_it_is_about_and_nothing_else_that_a_record_carries() -> None:
    record = logging.makeLogRecord(
        {"msg": "x", "true_id": "p_1", "session_id": "s_1", "token": "secret", "room": None}
    )
    fields = json.loads(JsonFormatter().format(record))
    assert set(fields) == {"time", "level", "logger", "message", "true_id", "session_id"}
    assert (fields["true_id"], fields["session_id"]) == ("p_1", "s_1")


def test_text_lines_tell_time_level_and_logger() -> None:
    lines = lines_of("warning", "text")
    assert lines[0].endswith(" WARNING gateway.x: two")
    assert lines[1] == "lines"
    assert lines[2].endswith(" ERROR gateway.x: bad")
    datetime.fromisoformat(lines[0].partition(" WARNING")[0])


@pytest.mark.parametrize(
    ("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_the_level_is_the_least_that_is_logged(level: str, count: int) -> None:
    assert len(lines_of(level, "json")) == count


def test_a_traceback_is_part_of_its_json_line() -> None:
    try:
        raise ValueError("what went wrong")
    except ValueError:
        record = logging.LogRecord("g", logging.ERROR, "f", 1, "it failed", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["message"] == "it failed"
    assert fields["traceback"].endswith("ValueError: what went wrong")


@pytest.mark.gen_test(timeout=TIMEOUT)
@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_secret_is_ever_logged(tmp_path: Path, form: str) -> None:
    run("users", "add", "ada", "--password-stdin", cwd=tmp_path, text=PASSWORD)
    added = run("api-keys", "add", "operator", "admin", cwd=tmp_path)
    variables = {
        "GATEWAY_LOG_LEVEL": "debug",
        "GATEWAY_LOG_FORMAT": form,
        "GATEWAY_AUTH_METHODS": "guest,password",
        "GATEWAY_RESUME_SECRET_KEYS": KEY,
        "GATEWAY_RESUME_PROBE_TIMEOUT": "0.05",
    }
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        async with Clients(gateway.url) as clients:
            secrets = {KEY, PASSWORD, WRONG} | await secrets_of_misuse(clients)
            secrets |= await secrets_of_an_operator(clients, added.stdout.split()[-1])
            gateway.stop()
    for word in ("token_reused", "operator kicked", "operator revoked", "operator sent"):
        assert word in gateway.log
    shown = gateway.out + gateway.log
    assert {secret for secret in secrets if secret in shown} == set()
    # Nor the part of a token that is its signature alone.
    assert {token for token in secrets if "." in token and token[-20:] in shown} == set()
    if form == "json":
        lines = [json.loads(line) for line in gateway.log.splitlines()]
        for fields in lines:
            assert {"time", "level", "logger", "message"} <= fields.keys()
            # Whom a line names it also has as a field.
            for name, prefix in (("true_id", "p_"), ("session_id", "s_")):
                named = re.findall(rf"\b{prefix}[\w-]{{16}}\b", fields["message"])
                assert set(named) <= {fields.get(name)}, fields
        assert {fields.get("action") for fields in lines} >= {"login", "kick", "revoke", "announce"}


async def secrets_of_an_operator(clients: Clients, key: str) -> set[str]:
    """Log in to the operator's page, rightly and wrongly, and act; return what is secret."""
    player = await clients.player()
    secrets = {key, WRONG, player.link.sid, player.session["token"], player.pid, "a secret plan"}
    headers = {"Origin": clients.url, "Content-Type": "application/json"}

    async def act(method: str, path: str, body: object = None) -> HTTPResponse:
        raw = None if body is None else json.dumps(body)
        return await clients.fetch(f"/admin/{path}", method, raw, headers)

    assert (await act("POST", "login", {"key": WRONG})).code == 401
    response = await act("POST", "login", {"key": key})
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    secrets.add(cookie.partition("=")[2])
    headers["Cookie"] = cookie
    path = f"api/players/{player.true_id}"
    message = {"target_id": player.true_id, "data": "a secret plan"}
    for method, where, body in (
        ("POST", "api/announcements", message),
        ("POST", f"{path}/kick", ""),
        ("DELETE", f"{path}/sessions/{player.session['session_id']}", None),
        ("DELETE", f"{path}/sessions", None),
    ):
        assert (await act(method, where, body)).code == 200, where
    return secrets


async def secrets_of_misuse(clients: Clients) -> set[str]:
    """Do what makes the gateway log something, with secrets in hand; return these."""
    secrets: set[str] = set()

    async def log_in(**auth: object) -> Player:
        player = await clients.player("polling", auth)
        secrets.update((player.link.sid, player.session["token"], player.pid))
        return player

    async def refused(**auth: object) -> str:
        return await connect_refused(await clients.polling(), auth)

    first = (await log_in(guest=True, name="Grace")).session["token"]
    user = await log_in(username="ada", password=PASSWORD)
    assert await refused(username="ada", password=WRONG) == "bad_credentials"

    # Resume twice, then present the token that somebody copied.
    second = (await log_in(token=first)).session["token"]
    await log_in(token=second)
    assert await refused(token=first) == "token_reused"
    assert await refused(token=first[:-4] + "AAAA") == "token_invalid"

    # Break the protocol.
    for packet in (f'42["message",{{"target_id":"{second}"', f"4x{second}"):
        broken = await log_in(guest=True)
        await broken.link.send(packet)
    path = endpoint(transport="nonsense", sid=user.link.sid, token=KEY)
    assert (await clients.fetch(path)).code == 400
    assert (await clients.fetch(f"/{KEY}?token={KEY}")).code == 404
    oversized = await clients.engine("POST", "x" * 200_000, sid=user.link.sid)
    assert oversized.code in (400, 413)
    return secrets
