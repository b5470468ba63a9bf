"""The HTTP API over real sockets: keys, scopes, calls, limits, problem documents."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tornado.httpclient import HTTPResponse
from tornado.ioloop import IOLoop
from tornado.routing import PathMatches

from gateway.api_calls import CALLS, PREFIX, SMALL_BODY
from gateway.api_keys import SCOPES, ApiKeysFile
from gateway.config import Config
from gateway.server import Gateway
from tests.transport.client import Clients, Player, connect_refused, soon
from tests.transport.conftest import nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)

JSON = "application/json"
PROBLEM = "application/problem+json"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def keys(state_dir: Path) -> ApiKeysFile:
    return ApiKeysFile(state_dir / "api-keys")


@pytest.fixture
def gateway(io_loop: IOLoop, settings: Config, state_dir: Path) -> Iterator[Gateway]:
    gateway = Gateway(settings, state_dir, {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any


class Backend:
    """A game's backend that calls the API with a key."""

    def __init__(self, clients: Clients, secret: str) -> None:
        self._clients = clients
        self.secret = secret

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        **headers: str,
    ) -> Answer:
        if raw is None and body is not None:
            raw = json.dumps(body).encode()
        given = {"Authorization": f"Bearer {self.secret}"}
        if raw is not None:
            given["Content-Type"] = JSON
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = await soon(self._clients.fetch(PREFIX + path, method, raw, given))
        return answer(response)

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        got = await self.call(method, path, body)
        assert (got.status, got.headers["Content-Type"]) == (200, JSON), got.body
        return got.body

    async def refused(
        self, method: str, path: str, body: object = None, **named: Any
    ) -> tuple[int, str, str | None]:
        return refusal(await self.call(method, path, body, **named))


def answer(response: HTTPResponse) -> Answer:
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in response.headers
    body = json.loads(response.body) if response.body else None
    return Answer(response.code, body, response.headers)


def refusal(got: Answer) -> tuple[int, str, str | None]:
    """Return status, code and field of a problem document."""
    assert got.headers["Content-Type"] == PROBLEM
    assert got.body["type"] == "about:blank"
    assert got.body["status"] == got.status
    assert got.body["title"]
    assert got.body["detail"]
    return got.status, got.body["code"], got.body.get("field")


async def refused_token(clients: Clients, token: str) -> str:
    """Return the code with which a CONNECT by this token is refused."""
    return await connect_refused(await clients.link("websocket"), {"token": token})


@pytest.fixture
def backend(clients: Clients, keys: ApiKeysFile) -> Backend:
    return Backend(clients, keys.add("backend", frozenset(SCOPES))[1])


# Keys


def concrete(path: str) -> str:
    return re.sub(r"\{\w+\}", "x", path)


async def test_every_route_below_api_needs_a_key(gateway: Gateway, clients: Clients) -> None:
    """All routes of the application are walked, so that a new one cannot be forgotten."""
    app = gateway._listeners._servers[0].request_callback
    patterns = [
        rule.matcher.regex.pattern
        for rule in app.wildcard_router.rules  # type: ignore[union-attr]
        if isinstance(rule.matcher, PathMatches) and rule.matcher.regex.pattern.startswith("/api")
    ]
    paths = [re.sub(r"\(\?P<\w+>\[\^/\]\*\)", "x", pattern.rstrip("$")) for pattern in patterns]
    public = [path for path in paths if path == f"{PREFIX}/openapi\\.json"]
    rest = [path.replace("(?:/.*)?", "/unknown") for path in paths if path not in public]
    assert len(public) == 1
    assert set(rest) == {PREFIX + concrete(call.path) for call in CALLS} | {"/api/unknown"}
    for path in rest:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                body = b"{}" if method in {"POST", "PUT", "PATCH"} else None
                response = await clients.fetch(path, method, body, headers)
                assert response.code in {401, 429}, (method, path)
                if response.code == 401:
                    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
async def test_every_call_needs_its_scope(clients: Clients, keys: ApiKeysFile, call: Any) -> None:
    others = frozenset(SCOPES) - {call.scope}
    lacking = Backend(clients, keys.add("lacking", others)[1])
    body = {} if call.body is not None else None
    path = concrete(call.path)
    assert await lacking.refused(call.method, path, body) == (403, "forbidden", None)
    having = Backend(clients, keys.add("having", frozenset({call.scope}))[1])
    assert (await having.call(call.method, path, body)).status != 403


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Basic {}", "{}", "Bearer {}x", "Bearer x{}", "Bearer {} {}"],
)
async def test_only_the_key_itself_is_good(
    backend: Backend, clients: Clients, authorization: str
) -> None:
    headers = {"Authorization": authorization.replace("{}", backend.secret)}
    got = answer(await clients.fetch(f"{PREFIX}/players", headers=headers))
    assert refusal(got) == (401, "unauthorized", None)
    assert backend.secret not in json.dumps(got.body)
    assert (await backend.call("GET", "/players")).status == 200


async def test_the_running_gateway_follows_the_file_of_keys(
    clients: Clients, keys: ApiKeysFile
) -> None:
    stranger = Backend(clients, "gk_nobody")
    assert await stranger.refused("GET", "/players") == (401, "unauthorized", None)
    late = Backend(clients, keys.add("late", frozenset({"read"}))[1])
    await late.ok("GET", "/players")
    keys.remove("late")
    assert await late.refused("GET", "/players") == (401, "unauthorized", None)


@pytest.mark.settings(api={"attempts_per_minute": 2})
async def test_wrong_keys_are_limited_and_good_ones_are_not(
    backend: Backend, clients: Clients
) -> None:
    stranger = Backend(clients, "wrong")
    codes = [(await stranger.refused("GET", "/players"))[1] for _ in range(3)]
    assert codes == ["unauthorized", "unauthorized", "rate_limited"]
    got = await stranger.call("GET", "/players")
    assert 1 <= int(got.headers["Retry-After"]) <= 60
    await backend.ok("GET", "/players")
    metrics = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_limit_hits_total{limit="api.attempts_per_minute"} 2.0' in metrics
    assert 'gateway_api_calls_total{status="401"} 2.0' in metrics


@pytest.mark.settings(api={"requests_per_second": 0.01, "burst": 2})
async def test_calls_are_limited_for_each_key(
    clients: Clients, backend: Backend, keys: ApiKeysFile
) -> None:
    other = Backend(clients, keys.add("other", frozenset({"read"}))[1])
    for _ in range(2):
        await backend.ok("GET", "/players")
    got = await backend.call("GET", "/players")
    assert refusal(got) == (429, "rate_limited", None)
    assert int(got.headers["Retry-After"]) >= got.body["retry_after"] > 0
    await other.ok("GET", "/players")


# Requests that are not right


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b"null", None),
        (b'{"target_id": "x"}', "data"),
        (b'{"data": 1}', "target_id"),
        (b'{"data": 1, "target_id": "x", "all": true}', "target_id"),
        (b'{"data": 1, "target_id": "x", "room": "r"}', "target_id"),
        (b'{"data": 1, "room": "a\\u0000"}', "room"),
        (b'{"data": 1, "target_id": null}', "target_id"),
        (b'{"data": 1, "target_id": ""}', "target_id"),
        (b'{"data": 1, "target_id": "x", "id": ""}', "id"),
        (b'{"data": 1, "target_id": "x", "extra": 1}', "extra"),
        (b'{"data": 1, "all": false}', "all"),
        (b'{"data": 1, "target_id": "x", "type": "\\ud800"}', None),
        (b'{"target_id": "x", "data": %b1%b}' % (b"[" * 200, b"]" * 200), None),
        (b'{"target_id": "x", "data": %b}' % (b"1" * 200), "data"),
    ],
)
async def test_a_body_that_is_not_right_names_the_field(
    backend: Backend, raw: bytes, field: str | None
) -> None:
    assert await backend.refused("POST", "/messages", raw=raw) == (400, "bad_request", field)


async def test_a_body_must_say_that_it_is_json(backend: Backend) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        got = await backend.refused("POST", "/messages", {}, Content_Type=kind)
        assert got == (415, "unsupported_media_type", None)
    kind = "application/json; charset=utf-8"
    assert (await backend.refused("POST", "/messages", {}, Content_Type=kind))[0] == 400


@pytest.mark.settings(limits={"message_bytes": 1024, "send_buffer_bytes": 0})
async def test_bodies_are_bounded(backend: Backend, clients: Clients) -> None:
    too_large = (413, "too_large", None)
    big = b"x" * (SMALL_BODY + 1)
    assert await backend.refused("POST", "/sessions", raw=big) == too_large
    assert await backend.refused("POST", "/messages", raw=b"x" * 5121) == too_large
    data = {"target_id": "x", "data": "y" * 1023}
    assert await backend.refused("POST", "/messages", data) == (413, "too_large", "data")
    # Without a length, it is counted as it comes.
    stream = await clients.stream()
    stream.write(
        f"POST {PREFIX}/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {backend.secret}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    for _ in range(20):
        stream.write(b"800\r\n" + b"x" * 2048 + b"\r\n")
    stream.write(b"0\r\n\r\n")
    assert (await stream.rest()).startswith(b"HTTP/1.1 413 ")


async def test_a_body_without_a_key_is_not_taken(clients: Clients) -> None:
    response = await clients.fetch(f"{PREFIX}/messages", "POST", b"x" * 300_000)
    assert refusal(answer(response)) == (401, "unauthorized", None)


async def test_other_methods_and_paths_are_refused(backend: Backend) -> None:
    got = await backend.call("PUT", "/messages", {})
    assert refusal(got) == (405, "method_not_allowed", None)
    assert got.headers["Allow"] == "POST"
    for path in ("", "/", "/nothing", "/players/x/y", "/messages/"):
        assert await backend.refused("GET", path) == (404, "not_found", None)


@pytest.mark.parametrize("true_id", ["", "x" * 129])
async def test_an_id_in_the_path_is_checked(backend: Backend, true_id: str) -> None:
    got = await backend.refused("GET", f"/players/{true_id}")
    assert got == (400, "bad_request", "true_id")


async def test_a_path_that_is_not_utf_8_is_no_fault_of_ours(backend: Backend) -> None:
    assert await backend.refused("GET", "/players/%ff") == (400, "bad_request", None)


# Messages


async def up_to_date(clients: Clients, backend: Backend) -> Player:
    """Return a player whose replay is over: before it, volatile messages are dropped."""
    player = await clients.player()
    await backend.ok("POST", "/messages", {"target_id": player.true_id, "data": "first"})
    assert await player.message() == "first"
    return player


async def test_a_message_of_the_backend_comes_from_nobody(
    backend: Backend, clients: Clients
) -> None:
    player = await clients.player()
    request = {"target_id": player.true_id, "type": "reward", "data": {"coins": 5}, "id": "r-1"}
    receipt = await backend.ok("POST", "/messages", request)
    message, offset = await player.event("message")
    assert receipt == {
        "ok": True,
        "id": message["id"],
        "status": "delivered",
        "connections": 1,
        "duplicate": False,
    }
    assert (message["from"], message["type"], message["data"]) == (None, "reward", {"coins": 5})
    assert offset == message["id"]


async def test_an_id_is_accepted_once_for_each_key(
    backend: Backend, clients: Clients, keys: ApiKeysFile
) -> None:
    other = Backend(clients, keys.add("other", frozenset({"send"}))[1])
    ann, bob = await clients.player(), await clients.player()
    request = {"target_id": ann.true_id, "data": 1, "id": "k"}
    first = await backend.ok("POST", "/messages", request)
    again = await backend.ok("POST", "/messages", {**request, "data": 2})
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    elsewhere = {**request, "target_id": bob.true_id}
    assert await backend.refused("POST", "/messages", elsewhere) == (400, "bad_request", "id")
    assert not (await other.ok("POST", "/messages", {**request, "data": 3}))["duplicate"]
    assert [(await ann.event("message"))[0]["data"] for _ in range(2)] == [1, 3]


async def test_a_player_cannot_use_up_the_ids_of_a_backend(
    backend: Backend, clients: Clients
) -> None:
    player = await clients.player()
    await backend.ok("POST", "/messages", {"all": True, "data": 1, "id": "k"})
    await player.event("message")
    to_itself = {"target_id": player.true_id, "data": 2, "id": "k"}
    assert not (await player.call("message", to_itself))["duplicate"]
    await player.event("message")
    request = {"target_id": player.true_id, "data": 3, "id": "k"}
    assert not (await backend.ok("POST", "/messages", request))["duplicate"]


async def test_a_volatile_message_is_stored_nowhere(backend: Backend, clients: Clients) -> None:
    player = await up_to_date(clients, backend)
    request = {"target_id": player.true_id, "data": 1, "volatile": True}
    receipt = await backend.ok("POST", "/messages", request)
    assert (receipt["id"], receipt["status"]) == (None, "delivered")
    (message,) = await player.event("message")
    assert "id" not in message
    receipt = await backend.ok("POST", "/messages", {**request, "target_id": "nobody"})
    assert receipt["status"] == "dropped"


async def test_a_message_to_a_stranger_is_refused(backend: Backend) -> None:
    request = {"target_id": "nobody", "data": 1}
    assert await backend.refused("POST", "/messages", request) == (
        404,
        "unknown_target",
        "target_id",
    )


@pytest.mark.settings(
    mailbox={"max_messages": 1, "when_full": "refuse"}, server={"ping_interval": 100.0}
)
async def test_a_full_mailbox_asks_to_wait(backend: Backend) -> None:
    await backend.ok("POST", "/sessions", {"true_id": "ann"})
    await backend.ok("POST", "/messages", {"target_id": "ann", "data": 1})
    got = await backend.call("POST", "/messages", {"target_id": "ann", "data": 2})
    assert refusal(got) == (507, "mailbox_full", None)
    assert int(got.headers["Retry-After"]) >= 1
    everybody = await backend.ok("POST", "/messages", {"all": True, "data": 2})
    assert (everybody["players"], everybody["refused"]) == (0, 1)


async def test_a_message_to_all_reaches_those_who_are_away_once(
    backend: Backend, clients: Clients
) -> None:
    here = await clients.player()
    minted = await backend.ok("POST", "/sessions", {"true_id": "away"})
    request = {"all": True, "data": "news", "id": "n-1"}
    receipt = await backend.ok("POST", "/messages", request)
    assert receipt == {
        "ok": True,
        "id": None,
        "status": "delivered",
        "connections": 1,
        "duplicate": False,
        "players": 2,
        "refused": 0,
    }
    again = await backend.ok("POST", "/messages", request)
    assert (again["duplicate"], again["players"]) == (True, 2)
    late = await clients.player(auth={"token": minted["token"]})
    for player in (here, late):
        message, _ = await player.event("message")
        assert (message["data"], message["from"]) == ("news", None)
    await backend.ok("POST", "/messages", {"target_id": late.true_id, "data": "last"})
    assert (await late.event("message"))[0]["data"] == "last"


async def test_a_volatile_message_to_all_reaches_who_is_here(
    backend: Backend, clients: Clients
) -> None:
    request = {"all": True, "data": 1, "volatile": True}
    assert (await backend.ok("POST", "/messages", request))["status"] == "dropped"
    player = await up_to_date(clients, backend)
    receipt = await backend.ok("POST", "/messages", request)
    assert (receipt["status"], receipt["connections"], receipt["players"]) == ("delivered", 1, 1)
    await player.event("message")


# Sessions


async def test_a_minted_token_connects_a_new_player(backend: Backend, clients: Clients) -> None:
    attributes = {"name": "Ada", "team": "red"}
    minted = await backend.ok("POST", "/sessions", {"true_id": "u-1", "attributes": attributes})
    assert (minted["true_id"], minted["token_expires_in"]) == ("u-1", 604800.0)
    receipt = await backend.ok("POST", "/messages", {"target_id": "u-1", "data": 1})
    assert receipt["status"] == "queued"
    player = await clients.player(auth={"token": minted["token"]})
    session = player.session
    assert (session["true_id"], session["session_id"]) == ("u-1", minted["session_id"])
    assert (session["name"], session["attributes"]) == ("Ada", attributes)
    assert (session["outcome"], session["resumed"], session["missed"]) == ("new", False, 1)
    assert session["token"] != minted["token"]
    assert (await player.event("message"))[0]["data"] == 1
    await player.link.send("41")
    resumed = await clients.player(auth={"token": session["token"]})
    assert (resumed.session["outcome"], resumed.session["attributes"]) == ("resumed", attributes)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "true_id"),
        ({"true_id": "a b"}, 400, "true_id"),
        ({"true_id": "a\n"}, 400, "true_id"),
        ({"true_id": "\u00e9"}, 400, "true_id"),
        ({"true_id": "x" * 129}, 400, "true_id"),
        ({"true_id": "x", "attributes": []}, 400, "attributes"),
        ({"true_id": "x", "attributes": {"name": 5}}, 400, "attributes.name"),
        ({"true_id": "x", "attributes": {"name": "a\u202eb"}}, 400, "attributes.name"),
        ({"true_id": "x", "attributes": {"a": "x" * 600}}, 413, "attributes"),
    ],
)
async def test_what_cannot_be_minted_names_the_field(
    backend: Backend, body: object, status: int, field: str
) -> None:
    assert (await backend.refused("POST", "/sessions", body))[::2] == (status, field)


async def test_a_revoked_session_is_disconnected_and_its_token_dead(
    backend: Backend, clients: Clients
) -> None:
    player, other = await clients.player(), await clients.player()
    path = f"/players/{player.true_id}/sessions"
    wrong = f"/players/{other.true_id}/sessions/{player.session['session_id']}"
    assert await backend.refused("DELETE", wrong) == (404, "unknown_target", "session_id")
    got = await backend.ok("DELETE", f"{path}/{player.session['session_id']}")
    assert got == {"ok": True, "true_id": player.true_id, "sessions": 1}
    await player.link.ended()
    code = await connect_refused(
        await clients.link("websocket"), {"token": player.session["token"]}
    )
    assert code == "session_revoked"
    assert (await backend.ok("DELETE", path))["sessions"] == 0
    assert (await other.call("players", {}))["ok"]


async def test_all_sessions_of_a_player_are_revoked(backend: Backend, clients: Clients) -> None:
    minted = [await backend.ok("POST", "/sessions", {"true_id": "u"}) for _ in range(3)]
    player = await clients.player(auth={"token": minted[0]["token"]})
    assert (await backend.ok("DELETE", "/players/u/sessions"))["sessions"] == 3
    await player.link.ended()
    for each in minted:
        code = await refused_token(clients, each["token"])
        assert code == "session_revoked"


# Bans


async def test_a_ban_disconnects_and_keeps_out_until_it_is_lifted(
    backend: Backend, clients: Clients
) -> None:
    player = await clients.player()
    path = f"/players/{player.true_id}/ban"
    banned = await backend.ok("PUT", path, {"reason": "cheating"})
    assert banned == {
        "true_id": player.true_id,
        "banned": True,
        "until": None,
        "reason": "cheating",
    }
    await player.link.ended()
    code = await connect_refused(
        await clients.link("websocket"), {"token": player.session["token"]}
    )
    assert code == "banned"
    info = await backend.ok("GET", f"/players/{player.true_id}")
    assert info["ban"] == {"until": None, "reason": "cheating"}
    lifted = await backend.ok("DELETE", path)
    assert not lifted["banned"]
    back = await clients.player(auth={"token": player.session["token"]})
    assert back.true_id == player.true_id


async def test_who_was_banned_or_thrown_out_is_logged(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "gateway.transport.api"):
        await backend.ok("PUT", "/players/a%0Ab/ban", {"reason": "cheating"})
        await backend.ok("DELETE", "/players/x/sessions")
        await backend.ok("GET", "/players")
    said = [each.getMessage() for each in caplog.records if each.name == "gateway.transport.api"]
    assert said == [
        "API key backend: PUT /api/v1/players/a%0Ab/ban",
        "API key backend: DELETE /api/v1/players/x/sessions",
    ]
    assert backend.secret not in caplog.text


async def test_a_ban_may_end_and_needs_no_body(backend: Backend) -> None:
    assert (await backend.ok("PUT", "/players/x/ban"))["until"] is None
    until_ = 4_000_000_000.0
    assert (await backend.ok("PUT", "/players/x/ban", {"until": until_}))["until"] == until_
    for body in ({"until": 5}, {"until": -1}, {"until": 1e300}, {"until": "x"}):
        assert await backend.refused("PUT", "/players/x/ban", body) == (
            400,
            "bad_request",
            "until",
        )
    assert (await backend.refused("PUT", "/players/x/ban", {"reason": "a\u0000"}))[2] == "reason"


# Players


async def test_a_player_is_described(backend: Backend, clients: Clients) -> None:
    player = await clients.player(auth={"guest": True, "name": "Ann"})
    await backend.ok("POST", "/messages", {"target_id": player.true_id, "data": 1})
    await player.event("message")
    info = await backend.ok("GET", f"/players/{quote(player.true_id)}")
    assert info.pop("since") > 0
    (session,) = info.pop("sessions")
    assert (session["session_id"], session["connected"]) == (player.session["session_id"], True)
    assert info == {
        "true_id": player.true_id,
        "state": "active",
        "connections": 1,
        "name": "Ann",
        "rooms": [],
        "mailbox": {"messages": 1, "unread": 1},
        "ban": None,
    }
    assert await backend.refused("GET", "/players/nobody") == (404, "unknown_target", "true_id")


async def test_players_are_listed_in_pages(backend: Backend, clients: Clients) -> None:
    players = [await clients.player() for _ in range(5)]
    found, cursor = [], ""
    while cursor is not None:
        page = await backend.ok("GET", f"/players?limit=2{cursor and '&cursor=' + cursor}")
        assert page["online"] == 5
        found += [each["true_id"] for each in page["players"]]
        cursor = page["cursor"]
    assert found == [player.true_id for player in players]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limt=5", "limt"),
        ("limit=", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_wrong_parameter_is_named(backend: Backend, query: str, field: str) -> None:
    assert await backend.refused("GET", f"/players?{query}") == (400, "bad_request", field)


# Rooms


async def test_the_backend_puts_players_into_rooms_and_out(
    backend: Backend, clients: Clients
) -> None:
    ann, bob = await clients.player(auth={"guest": True, "name": "Ann"}), await clients.player()
    room = quote("a room/1", safe="")
    for number, player in enumerate((ann, bob), 1):
        path = f"/rooms/{room}/members/{player.true_id}"
        assert await backend.ok("PUT", path) == {
            "ok": True,
            "room": "a room/1",
            "true_id": player.true_id,
            "members": number,
        }
        joined, _ = (await player.event("room")), None
        assert joined[0] == {"room": "a room/1", "joined": player.true_id, "members": number}
    assert (await ann.event("room"))[0]["joined"] == bob.true_id
    first = await backend.ok("GET", f"/rooms/{room}?limit=1")
    assert (first["room"], first["members"]) == ("a room/1", 2)
    assert first["players"] == [{"true_id": ann.true_id, "state": "active", "name": "Ann"}]
    rest = await backend.ok("GET", f"/rooms/{room}?cursor={first['cursor']}")
    assert [each["true_id"] for each in rest["players"]] == [bob.true_id]
    assert rest["cursor"] is None
    assert (await backend.ok("GET", f"/players/{ann.true_id}"))["rooms"] == ["a room/1"]
    left = await backend.ok("DELETE", f"/rooms/{room}/members/{ann.true_id}")
    assert left["members"] == 1
    assert (await ann.event("room"))[0]["left"] == ann.true_id
    again = await backend.ok("DELETE", f"/rooms/{room}/members/{ann.true_id}")
    assert again["members"] == 1


async def test_a_message_to_a_room_reaches_its_members_once(
    backend: Backend, clients: Clients, keys: ApiKeysFile
) -> None:
    ann, bob, eve = [await clients.player() for _ in range(3)]
    for player in (ann, bob):
        await backend.ok("PUT", f"/rooms/r/members/{player.true_id}")
    while (await ann.event("room"))[0]["members"] != 2:
        pass
    await bob.event("room")
    request = {"room": "r", "data": [1], "type": "t", "id": "k"}
    receipt = await backend.ok("POST", "/messages", request)
    assert (receipt["status"], receipt["connections"]) == ("delivered", 2)
    again = await backend.ok("POST", "/messages", {**request, "data": 2})
    assert again["duplicate"]
    assert (await backend.ok("POST", "/messages", {**request, "id": "l", "data": 3}))["ok"]
    for player in (ann, bob):
        message, offset = await player.event("message")
        assert (message["from"], message["room"], message["data"]) == (None, "r", [1])
        assert offset == message["id"]
        assert await player.message() == 3
    await backend.ok("POST", "/messages", {"target_id": eve.true_id, "data": "not in the room"})
    assert await eve.message() == "not in the room"
    volatile = {"room": "r", "data": 1, "volatile": True}
    assert (await backend.ok("POST", "/messages", volatile))["status"] == "delivered"
    nobody = await backend.ok("POST", "/messages", {"room": "empty", "data": 1})
    assert (nobody["status"], nobody["connections"]) == ("queued", 0)


@pytest.mark.settings(rooms={"max_members": 1})
async def test_a_full_room_is_refused(backend: Backend) -> None:
    await backend.ok("PUT", "/rooms/r/members/ann")
    assert await backend.refused("PUT", "/rooms/r/members/bob") == (413, "too_large", "room")
    for method, path in (("GET", "/rooms/a%00"), ("PUT", "/rooms/a%00/members/x")):
        assert await backend.refused(method, path) == (400, "bad_request", "room")
    assert await backend.refused("GET", "/rooms/r?cursor=x") == (400, "bad_request", "cursor")
    empty = await backend.ok("GET", "/rooms/empty")
    assert (empty["members"], empty["players"], empty["cursor"]) == (0, [], None)


# When something is broken


async def test_without_a_store_calls_ask_to_wait(
    backend: Backend, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway._store, "available", False)
    for method, path, body in (
        ("POST", "/messages", {"target_id": "x", "data": 1}),
        ("POST", "/messages", {"all": True, "data": 1}),
        ("POST", "/sessions", {"true_id": "x"}),
        ("GET", "/players/x", None),
        ("DELETE", "/players/x/sessions", None),
        ("PUT", "/players/x/ban", {}),
        ("POST", "/messages", {"room": "r", "data": 1}),
        ("PUT", "/rooms/r/members/x", None),
    ):
        got = await backend.call(method, path, body)
        assert refusal(got)[:2] == (503, "unavailable")
        assert got.headers["Retry-After"] == "1"
    monkeypatch.undo()


async def test_messages_to_all_are_bounded_and_block_nobody(
    backend: Backend, clients: Clients, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [f"p{number}" for number in range(3000)]
    await gateway._store.know(known)  # type: ignore[arg-type]
    everyone, go_on = gateway._store.everyone, asyncio.Event()

    async def held(limit: int) -> AsyncIterator[tuple[Any, ...]]:
        await go_on.wait()
        async for page in everyone(limit):
            yield page

    monkeypatch.setattr(gateway._store, "everyone", held)
    request = {"all": True, "data": 1, "id": "k"}
    sending = [asyncio.ensure_future(backend.call("POST", "/messages", request)) for _ in range(4)]
    await until(lambda: sum(each.done() for each in sending) == 2)
    go_on.set()
    health = []
    while not all(each.done() for each in sending):
        health.append((await clients.fetch("/healthz")).code)
    answers = [await each for each in sending]
    assert sorted(got.status for got in answers) == [200, 200, 429, 429]
    assert set(health) == {200}
    assert len(health) > 2
    done = [got.body for got in answers if got.status == 200]
    assert [each["players"] for each in done] == [3000, 3000]
    views = [await gateway._store.view(each) for each in ("p0", "p2999")]  # type: ignore[arg-type]
    assert [view.head for view in views] == [1, 1]


@pytest.mark.parametrize("length", ["9" * 5000, "\u00b2", "-1", "1, 2", "x", ""])
async def test_an_odd_length_is_no_fault_of_ours(
    backend: Backend, clients: Clients, length: str
) -> None:
    stream = await clients.stream()
    stream.write(
        f"POST {PREFIX}/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {backend.secret}\r\nContent-Length: {length}\r\n\r\n{{}}".encode(
            "latin-1"
        )
    )
    answered = await stream.rest()
    assert answered == b"" or answered.startswith(b"HTTP/1.1 4"), answered
    await backend.ok("GET", "/players")


async def test_a_client_that_hangs_up_in_its_body_harms_nothing(
    backend: Backend, clients: Clients
) -> None:
    stream = await clients.stream()
    stream.write(
        f"POST {PREFIX}/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {backend.secret}\r\nContent-Length: 100\r\n\r\n{{".encode()
    )
    await backend.ok("GET", "/players")
    await stream.abandon()
    await backend.ok("GET", "/players")


async def test_a_client_that_hangs_up_harms_nothing(
    backend: Backend, clients: Clients, gateway: Gateway
) -> None:
    await gateway._store.know([f"p{number}" for number in range(2000)])  # type: ignore[list-item]
    stream = await clients.stream()
    body = b'{"all": true, "data": 1}'
    stream.write(
        f"POST {PREFIX}/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {backend.secret}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await until(lambda: gateway._backend._broadcasts == 1)
    await stream.abandon()
    await until(lambda: gateway._backend._broadcasts == 0)
    view = await gateway._store.view("p1999")  # type: ignore[arg-type]
    assert view.head == 1
