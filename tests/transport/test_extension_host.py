"""Extensions from the YAML file: set-up, log-ins, routes, hooks; and what stops a start."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config
from gateway.errors import ConfigError
from gateway.extension import (
    ConnectRefused,
    ListPlayers,
    ListRoom,
    Login,
    Request,
    RequestRefused,
    Response,
    TrueId,
)
from gateway.extension import (
    Gateway as ExtensionGateway,
)
from gateway.server import Gateway
from tests.gateway_process import run
from tests.transport.client import Clients, connect_refused
from tests.transport.conftest import change, nothing_runs

pytestmark = pytest.mark.gen_test(timeout=60)

NAMESPACE = 'import socketio\ndef setup(g): g.add_namespace(socketio.AsyncNamespace("/a"))\n'
AUTHENTICATOR = """
class Badge:
    method = "%s"
    keys = %s
    async def authenticate(self, auth, address): raise NotImplementedError
    async def still_valid(self, id): return True
def setup(g): g.add_authenticator(Badge())
"""


def write(folder: Path, **modules: str) -> dict[str, Any]:
    """Write modules into a folder; return the keys that name them."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return {"extensions": tuple(modules), "extensions_path": str(folder)}


def configured(settings: Config, keys: dict[str, Any]) -> Config:
    return Config(**{name: getattr(settings, name) for name in settings.__slots__} | keys)


# What stops a start


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module"),
        ("def setup(gateway)\n", "cannot be imported: SyntaxError"),
        ("1 / 0\ndef setup(g): pass", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("raise SystemExit", "cannot be imported: SystemExit"),
        ("x = 1", "has no function setup(gateway)"),
        ("def setup(): pass", "its setup failed: TypeError"),
        ("def setup(g): raise ValueError('no table')", "its setup failed: ValueError: no table ("),
        ("async def setup(g): pass", "its setup must be a plain function, not async"),
        ("def setup(g): g.on_begin(setup)", "the gateway has no hook on_begin; it has add_auth"),
        ("def setup(g): g.on_start(setup)", "a hook must be an async function"),
        ("def setup(g): g.add_namespace('/x')", "a namespace must be a socketio.AsyncNamespace"),
        ("def setup(g): g.add_handler('/', 'x', setup)", "namespace '/': a name such as"),
        ("def setup(g): g.add_handler('/x', 'y', 1)", "the handler of y cannot be called"),
        ("def setup(g): g.add_route('GET', '/metrics', setup)", "must begin with /ext/"),
        ("def setup(g): g.add_route('LOOK', '/ext/x', setup)", "one of GET, POST"),
        ("def setup(g): g.add_route('GET', '/ext/x', setup)", "must be an async function"),
        (AUTHENTICATOR % ("guest", "('b',)"), "auth method guest is the gateway's own"),
        (AUTHENTICATOR % ("api", "('b',)"), "auth method api is the gateway's own"),
        (AUTHENTICATOR % ("A-b", "('b',)"), "auth method 'A-b': small letters"),
        (AUTHENTICATOR % ("badge", "('token',)"), "keys that are not the gateway's own"),
        (AUTHENTICATOR % ("badge", "()"), "needs keys that are not the gateway's own"),
    ],
)
def test_an_extension_that_fails_stops_the_start(
    settings: Config, tmp_path: Path, text: str, fault: str
) -> None:
    keys = write(tmp_path, odd=text)
    with pytest.raises(ConfigError) as caught:
        Gateway(configured(settings, keys), tmp_path / "state", {})
    assert str(caught.value).startswith("extensions: odd: ")
    assert fault in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (NAMESPACE, "namespace /a"),
        (AUTHENTICATOR % ("badge", "('badge',)"), "auth method badge"),
        ("async def r(q): ...\ndef setup(g): g.add_route('GET', '/ext/x', r)", "route GET /ext/x"),
    ],
)
def test_a_name_that_two_extensions_take_stops_the_start(
    settings: Config, tmp_path: Path, text: str, what: str
) -> None:
    keys = write(tmp_path, first=text, second=text)
    with pytest.raises(ConfigError) as caught:
        Gateway(configured(settings, keys), tmp_path / "state", {})
    assert str(caught.value) == f"extensions: second: {what} is taken already, by first"


def test_a_folder_or_a_method_that_is_not_there_stops_the_start(
    settings: Config, tmp_path: Path
) -> None:
    keys = {"extensions": ("odd",), "extensions_path": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match="extensions_path: there is no directory"):
        Gateway(configured(settings, keys), tmp_path / "state", {})
    keys = write(tmp_path, badge=AUTHENTICATOR % ("badge", "('badge',)"))
    config = change(configured(settings, keys), auth={"methods": ("guest", "ticket")})
    with pytest.raises(ConfigError, match=r"no method ticket; those of the extensions: badge"):
        Gateway(config, tmp_path / "state", {})


def test_a_hook_that_fails_stops_the_start_and_closes_the_store(
    io_loop: IOLoop, settings: Config, tmp_path: Path
) -> None:
    text = """
    async def begin(): raise OSError("no table free")
    def setup(gateway): gateway.on_start(begin)
    """
    keys = write(tmp_path, odd=text)
    gateway = Gateway(configured(settings, keys), tmp_path / "state", {})
    with pytest.raises(ConfigError, match=r"odd: its hook of on_start failed: OSError: no table"):
        io_loop.run_sync(gateway.start)
    # Its lock is free again.
    other = Gateway(settings, tmp_path / "state", {})
    io_loop.run_sync(other.start)
    io_loop.run_sync(other.stop)
    io_loop.run_sync(nothing_runs)


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path: Path) -> None:
    write(tmp_path, odd="def setup(g): raise ValueError('no table')")
    (tmp_path / "gateway.yaml").write_text("extensions: [odd]\nextensions_path: .\n")
    done = run("serve", "--config", "gateway.yaml", "--port", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "var").exists()
    assert done.stderr.startswith("extensions: odd: its setup failed: ValueError: no table (")
    assert "Traceback" not in done.stderr


def test_an_installed_module_is_found_without_a_folder(settings: Config, tmp_path: Path) -> None:
    keys = {"extensions": ("json.decoder",)}
    with pytest.raises(ConfigError, match=r"json\.decoder: has no function setup"):
        Gateway(configured(settings, keys), tmp_path / "state", {})


# A gateway with extensions


class Club:
    """An extension with a log-in, routes and hooks; it notes what it is told."""

    method = "badge"
    keys = ("badge",)

    def __init__(self) -> None:
        self.gateway: ExtensionGateway
        self.seen: list[str] = []
        self.valid = True

    def setup(self, gateway: ExtensionGateway) -> None:
        self.gateway = gateway
        gateway.add_authenticator(self)
        gateway.on_start(self.begin)
        gateway.on_stop(self.end)
        gateway.on_stop(self.fail)
        gateway.add_route("POST", "/ext/club/echo", self.echo)
        gateway.add_route("GET", "/ext/club/fail", self.fail_route)

    async def begin(self) -> None:
        self.seen.append("start")
        page = await self.gateway.players(ListPlayers())
        assert page.online == 0

    async def end(self) -> None:
        self.seen.append("stop")

    async def fail(self) -> None:
        raise RuntimeError("the secret of the club")

    async def authenticate(self, auth: Any, address: str) -> Login:
        badge = auth["badge"]
        if badge == "broken":
            raise RuntimeError("the secret of the club")
        if badge == "long":
            return Login("x" * 97, "Long")
        if not isinstance(badge, str) or not badge.startswith("member-"):
            raise ConnectRefused("bad_credentials", "no member")
        return Login(badge, "Ann", {"club": address})

    async def still_valid(self, id: str) -> bool:
        assert id.startswith("member-")
        return self.valid

    async def echo(self, request: Request) -> Response:
        said = [request.method, request.query, request.body.decode(), request.address]
        return Response(json.dumps(said).encode(), 201, headers={"X-Club": request.headers["x-a"]})

    async def fail_route(self, request: Request) -> Response:
        raise KeyError("the secret of the club")


@pytest.fixture
def club(monkeypatch: pytest.MonkeyPatch) -> Club:
    club = Club()
    monkeypatch.setattr("gateway.building_auth.load_modules", lambda *_: [("club", club.setup)])
    return club


@pytest.fixture
def gateway(io_loop: IOLoop, settings: Config, tmp_path: Path, club: Club) -> Iterator[Gateway]:
    config = change(
        configured(settings, {"extensions": ("club",)}),
        auth={"methods": ("guest", "badge")},
        limits={"message_bytes": 1024},
    )
    gateway = Gateway(config, tmp_path / "state", {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)
    assert club.seen == ["start", "stop"]


@pytest.fixture(autouse=True)
def _quiet_log() -> None:
    """Tests here look at the log themselves: extensions fail on purpose."""


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def test_players_log_in_by_an_extension_and_come_back_by_their_token(
    clients: Clients, club: Club
) -> None:
    player = await clients.player(auth={"badge": "member-1"})
    session = player.session
    assert (session["true_id"], session["name"]) == ("badge:member-1", "Ann")
    assert session["attributes"] == {"club": "127.0.0.1"}
    await player.link.send("1")
    again = await clients.player(auth={"token": session["token"]})
    assert again.session["true_id"] == "badge:member-1"
    await again.link.send("1")
    club.valid = False
    link = await clients.link("websocket")
    code = await connect_refused(link, {"token": again.session["token"]})
    assert code == "session_revoked"


@pytest.mark.parametrize(
    ("badge", "code"),
    [
        ("x", "bad_credentials"),
        (1, "bad_credentials"),
        ("broken", "unavailable"),
        ("long", "unavailable"),
    ],
)
async def test_a_log_in_that_an_extension_refuses_or_fails_at(
    clients: Clients, badge: object, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        link = await clients.link("websocket")
        assert await connect_refused(link, {"badge": badge}) == code
        await link.send("1")
    assert len(faults(caplog)) == (1 if code == "unavailable" else 0)
    # A guest is let in all the same.
    await clients.player()


async def test_an_extension_writes_to_players_and_rooms(clients: Clients, club: Club) -> None:
    ann, bob = await clients.player(), await clients.player()
    ids = [TrueId(each.session["true_id"]) for each in (ann, bob)]
    for true_id in ids:
        await club.gateway.add_member("club", true_id)
    for player, told in ((ann, 2), (bob, 1)):
        for _ in range(told):
            await player.event("room")
    receipt = await club.gateway.send(ids[0], {"n": 1}, type="note", id="one")
    assert (receipt.ok, receipt.status, receipt.connections) == (True, "delivered", 1)
    assert (await club.gateway.send(ids[0], {"n": 1}, id="one")).duplicate
    assert (await club.gateway.publish("club", 2)).connections == 2
    assert (await club.gateway.send(ids[0], 3, volatile=True)).id is None
    assert [await ann.message() for _ in range(3)] == [{"n": 1}, 2, 3]
    assert await bob.message() == 2
    assert (await club.gateway.player(ids[0])).rooms == ("club",)
    assert (await club.gateway.room("club", ListRoom())).members == 2
    assert (await club.gateway.remove_member("club", ids[1])).members == 1
    with pytest.raises(RequestRefused):
        await club.gateway.send(TrueId("nobody"), 1)
    with pytest.raises(ConfigError, match="what an extension adds, it adds in setup"):
        club.gateway.on_stop(club.end)


async def test_routes_answer_within_bounds(
    clients: Clients, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    path, headers = "/ext/club/echo", {"X-A": "b"}
    response = await clients.fetch(f"{path}?a=1&a=2", "POST", "body", headers)
    assert response.code == 201
    assert json.loads(response.body) == ["POST", {"a": "2"}, "body", "127.0.0.1"]
    assert response.headers["X-Club"] == "b"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert (await clients.fetch(path)).code == 405
    assert (await clients.fetch("/ext/club/none")).code == 404
    origin = {**headers, "Origin": "https://elsewhere.example"}
    assert (await clients.fetch(path, "POST", "body", origin)).code == 403
    largest = gateway._engine.settings.max_payload
    assert (await clients.fetch(path, "POST", "x" * largest, headers)).code == 201
    assert (await clients.fetch(path, "POST", "x" * (largest + 1), headers)).code == 413
    for _ in range(3):
        response = await clients.fetch("/ext/club/fail")
        assert response.code == 500
        assert b"secret" not in response.body
    assert faults(caplog) == ["the route GET /ext/club/fail failed"]
