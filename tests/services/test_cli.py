"""The command line, every command as a process of its own; `serve` is in other tests too."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from gateway.config_render import render_default
from gateway.messages import SessionId, TrueId
from gateway.tokens import Tokens
from tests.gateway_process import ROOT, TIMEOUT, GatewayProcess, own_environment, run
from tests.transport.client import Clients, Player, connect_refused

KEY = "k" * 40
PASSWORD = "correct horse battery"


def token(key: str = KEY, issued: float | None = None) -> str:
    clock = time.time() if issued is None else issued
    tokens = Tokens([key], 600.0, lambda: clock)
    return tokens.sign_token(TrueId("p_1"), SessionId("s_1"), 3, "e1", "Ada", "guest")


# Configuration


def test_the_default_configuration_passes_its_own_check(tmp_path: Path) -> None:
    printed = run("default-config", cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == render_default()
    (tmp_path / "gateway.yaml").write_text(printed.stdout)
    checked = run("check-config", "gateway.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "gateway.yaml: ok\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.yaml"]


def test_a_broken_configuration_is_refused_with_place_and_near_miss(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("log:\n  level: info\nserver:\n  prot: 9000\n")
    checked = run("check-config", "gateway.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr == 'gateway.yaml:4: server.prot: unknown key; did you mean "port"?\n'


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    checked = run("check-config", "nowhere.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr == "nowhere.yaml: there is no such file; check the path\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("users", "list"),
        ("users", "add", "ada"),
        ("token", "inspect", "x"),
        ("api-keys", "list"),
        ("api-keys", "add", "shop", "send"),
        ("api-keys", "remove", "shop"),
        ("backup", "x"),
        ("restore", "x"),
    ],
)
def test_every_command_refuses_a_broken_configuration(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "gateway.yaml").write_text("server: {port: many}\n")
    done = run(*arguments, "--config", "gateway.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gateway.yaml:1: server.port: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_variable_is_checked_like_the_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("")
    done = run("check-config", "gateway.yaml", cwd=tmp_path, GATEWAY_SERVER_PORT="many")
    assert done.returncode == 2
    assert "GATEWAY_SERVER_PORT" in done.stderr


# Users


def in_database(tmp_path: Path) -> tuple[str, str]:
    """Let users be in a database; return the options that say so."""
    path = tmp_path / "var" / "users"
    text = f"auth: {{methods: [password], password: {{database: {path}}}}}\n"
    (tmp_path / "gateway.yaml").write_text(text)
    return "--config", "gateway.yaml"


@pytest.mark.parametrize("database", [False, True], ids=["file", "database"])
def test_users_are_added_listed_and_removed(tmp_path: Path, database: bool) -> None:
    options = in_database(tmp_path) if database else ()

    def users(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return run("users", *arguments, *options, cwd=tmp_path, text=text)

    assert users("list").stdout == ""
    assert not (tmp_path / "var").exists()

    added = users("add", "ada", "--password-stdin", text=f"{PASSWORD}\n")
    assert (added.returncode, added.stderr) == (0, "")
    assert re.fullmatch(r"ada p_[\w-]{16}\n", added.stdout)
    file = tmp_path / "var" / "users"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    content = file.read_bytes()
    assert content.startswith(b"SQLite format 3") == database
    assert PASSWORD.encode() not in content
    second = users("add", "Bob B", "--password-stdin", text=PASSWORD)
    assert second.returncode == 0

    assert users("list").stdout == added.stdout + second.stdout
    changed = users("passwd", "ada", "--password-stdin", text=PASSWORD[::-1])
    assert (changed.returncode, changed.stdout) == (0, added.stdout)
    removed = users("remove", "ada")
    assert (removed.returncode, removed.stdout, removed.stderr) == (0, "", "")
    assert users("list").stdout == second.stdout
    again = users("remove", "ada")
    assert (again.returncode, "no user 'ada' in" in again.stderr) == (1, True)


def test_users_go_where_the_state_is(tmp_path: Path) -> None:
    add = ("users", "add", "ada", "--password-stdin")
    run(*add, "--state-dir", "here", cwd=tmp_path, text=PASSWORD, STATE_DIRECTORY="there")
    run(*add, cwd=tmp_path, text=PASSWORD, STATE_DIRECTORY="there")
    (tmp_path / "gateway.yaml").write_text("auth: {password: {file: elsewhere/accounts}}\n")
    run(*add, "--config", "gateway.yaml", cwd=tmp_path, text=PASSWORD)
    for path in ("here/users", "there/users", "elsewhere/accounts"):
        assert "ada:" in (tmp_path / path).read_text()


@pytest.mark.parametrize(
    ("arguments", "text", "complaint"),
    [
        (("add", "ada"), "short\n", "password is too short"),
        (("add", "ada"), "", "password is too short"),
        (("add", "a:da"), f"{PASSWORD}\n", "username contains ':'"),
        (("add", "ada"), b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\n", "the password is not UTF-8"),
        (("passwd", "ada"), f"{PASSWORD}\n", "users"),
        (("passwd", "ada"), "short\n", "password is too short"),
        (("remove", "ada"), "", "users"),
    ],
)
def test_a_failure_with_users_says_why_and_exits_1(
    tmp_path: Path, arguments: tuple[str, ...], text: str | bytes, complaint: str
) -> None:
    options = ("--password-stdin",) if arguments[0] != "remove" else ()
    done = run("users", *arguments, *options, cwd=tmp_path, text=text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("game-gateway: ")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_exists_once(tmp_path: Path) -> None:
    add = ("users", "add", "ada", "--password-stdin")
    assert run(*add, cwd=tmp_path, text=PASSWORD).returncode == 0
    again = run(*add, cwd=tmp_path, text=PASSWORD)
    assert (again.returncode, again.stdout) == (1, "")
    assert "remove it first" in again.stderr


def test_a_changed_password_keeps_the_true_id(tmp_path: Path) -> None:
    added = run("users", "add", "ada", "--password-stdin", cwd=tmp_path, text=PASSWORD)
    before = (tmp_path / "var" / "users").read_text()
    changed = run("users", "passwd", "ada", "--password-stdin", cwd=tmp_path, text=PASSWORD[::-1])
    assert (changed.returncode, changed.stdout, changed.stderr) == (0, added.stdout, "")
    assert (tmp_path / "var" / "users").read_text() != before
    assert run("users", "list", cwd=tmp_path).stdout == added.stdout


def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(
        *("users", "add", "ada", "--password-stdin", "--state-dir", "file/state"),
        cwd=tmp_path,
        text=PASSWORD,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "game-gateway: file/state: the directory cannot be made: Not a directory\n"
    )


def type_at_terminal(cwd: Path, *lines: str) -> tuple[int, str]:
    """Run `users add ada` at a terminal of its own; type each line when it is asked for."""
    terminal, end = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "users", "add", "ada"],
            cwd=cwd,
            env=own_environment(PYTHONPATH=str(ROOT)),
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
    finally:
        os.close(end)
    shown = ""
    waiting = list(lines)
    asked = 0
    with process:
        while True:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece.decode()
            if waiting and shown.count(": ") > asked:
                asked = shown.count(": ")
                os.write(terminal, waiting.pop(0).encode())
    os.close(terminal)
    return process.returncode, shown


def test_a_password_is_asked_for_twice_and_never_shown(tmp_path: Path) -> None:
    status, shown = type_at_terminal(tmp_path, f"{PASSWORD}\n", f"{PASSWORD}\n")
    assert status == 0, shown
    assert "Password for ada: " in shown
    assert "Again: " in shown
    assert PASSWORD not in shown
    assert run("users", "list", cwd=tmp_path).stdout.startswith("ada p_")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((f"{PASSWORD}\n", "another password\n"), "the passwords differ; nothing was changed"),
        (("\x04",), "no password was given; nothing was changed"),
    ],
)
def test_a_password_that_was_not_meant_changes_nothing(
    tmp_path: Path, lines: tuple[str, ...], complaint: str
) -> None:
    status, shown = type_at_terminal(tmp_path, *lines)
    assert (status, complaint in shown, "Traceback" in shown) == (1, True, False), shown
    assert run("users", "list", cwd=tmp_path).stdout == ""


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_a_user_can_log_in_at_once_and_no_more_when_removed(tmp_path: Path) -> None:
    variables = {"GATEWAY_AUTH_METHODS": "password"}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        async with Clients(gateway.url) as clients:
            link = await clients.polling()
            credentials = {"username": "ada", "password": PASSWORD}
            assert await connect_refused(link, credentials) == "bad_credentials"
            added = run("users", "add", "ada", "--password-stdin", cwd=tmp_path, text=PASSWORD)
            player = await Player.log_in(link, credentials)
            assert player.true_id == added.stdout.split()[1]
            assert run("users", "remove", "ada", cwd=tmp_path).returncode == 0
            link = await clients.polling()
            assert await connect_refused(link, credentials) == "bad_credentials"


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_users_of_a_database_come_and_go_while_the_gateway_runs(tmp_path: Path) -> None:
    options = in_database(tmp_path)
    with GatewayProcess(tmp_path, *options) as gateway:
        async with Clients(gateway.url) as clients:
            link = await clients.websocket()
            credentials = {"username": "ada", "password": PASSWORD}
            assert await connect_refused(link, credentials) == "bad_credentials"
            add = ("users", "add", "--password-stdin", *options)
            added = run(*add, "ada", cwd=tmp_path, text=PASSWORD)
            player = await Player.log_in(link, credentials)
            assert player.true_id == added.stdout.split()[1]
            # A new one can be written to before the first log-in.
            bob = run(*add, "bob", cwd=tmp_path, text=PASSWORD).stdout.split()[1]
            message = {"target_id": bob, "data": 1}
            for _ in range(600):
                receipt = await player.call("message", message)
                if receipt["ok"]:
                    break
                assert receipt["error"]["code"] == "unknown_target"
                await asyncio.sleep(0.1)
            assert receipt["status"] == "queued"
            # One that is gone loses the session, connected or not.
            assert run("users", "remove", "ada", *options, cwd=tmp_path).returncode == 0
            await player.link.ended(TIMEOUT)
            link = await clients.websocket()
            token = {"token": player.session["token"]}
            assert await connect_refused(link, token) == "session_revoked"


# API keys


def test_api_keys_are_added_listed_and_removed(tmp_path: Path) -> None:
    assert run("api-keys", "list", cwd=tmp_path).stdout == ""
    assert not (tmp_path / "var").exists()

    added = run("api-keys", "add", "shop", "read", "send", cwd=tmp_path)
    assert (added.returncode, added.stderr) == (0, "")
    assert re.fullmatch(r"gk_[\w-]{43}\n", added.stdout)
    file = tmp_path / "var" / "api-keys"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert added.stdout.strip() not in file.read_text()
    assert run("api-keys", "add", "ops", "admin", cwd=tmp_path).returncode == 0

    listed = run("api-keys", "list", cwd=tmp_path)
    assert listed.stdout == "shop send read\nops admin\n"
    removed = run("api-keys", "remove", "shop", cwd=tmp_path)
    assert (removed.returncode, removed.stdout, removed.stderr) == (0, "", "")
    assert run("api-keys", "list", cwd=tmp_path).stdout == "ops admin\n"


def test_api_keys_go_where_the_configuration_says(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("api: {keys_file: elsewhere/keys}\n")
    run("api-keys", "add", "shop", "send", "--config", "gateway.yaml", cwd=tmp_path)
    assert "shop:send:" in (tmp_path / "elsewhere" / "keys").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("add", "a:b", "send"), "the name must be"),
        (("add", "shop", "sned"), "unknown scope 'sned'"),
        (("remove", "shop"), "no key 'shop'"),
    ],
)
def test_a_failure_with_api_keys_says_why_and_exits_1(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    (tmp_path / "var").mkdir()
    done = run("api-keys", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_serve_refuses_a_broken_file_of_api_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("gk_pasted\n")
    done = run("serve", cwd=tmp_path, GATEWAY_API_KEYS_FILE="keys")
    assert (done.returncode, done.stdout) == (2, "")
    complaint = "keys, line 1: not name:scopes:digest; remove the line and add the key again"
    assert done.stderr.splitlines()[-1] == complaint


# Tokens


@pytest.mark.parametrize("by_input", [False, True])
def test_a_valid_token_is_explained(tmp_path: Path, by_input: bool) -> None:
    issued = int(time.time()) - 5
    text = token(issued=issued)
    done = run(
        *("token", "inspect", "-" if by_input else text),
        cwd=tmp_path,
        text=f"{text}\n" if by_input else "",
        GATEWAY_RESUME_SECRET_KEYS=KEY,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert shown.pop("issued_at") == time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(issued))
    assert shown == {
        "true_id": "p_1",
        "session_id": "s_1",
        "generation": 3,
        "epoch": "e1",
        "name": "Ada",
        "method": "guest",
        "attributes": {},
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (token("f" * 40), "not valid here"),
        (token(issued=time.time() - 10**7), "has expired"),
        ("rubbish", "not valid here"),
        ("x" * 5000, "not valid here"),
        ("-", "not valid here"),  # from an empty input
    ],
)
def test_a_bad_token_is_a_failure(tmp_path: Path, text: str, complaint: str) -> None:
    done = run("token", "inspect", text, cwd=tmp_path, GATEWAY_RESUME_SECRET_KEYS=KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_inspecting_a_token_makes_no_key(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    done = run("token", "inspect", token(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "var/resume.key" in done.stderr
    assert not list((tmp_path / "var").iterdir())


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_a_token_of_a_running_gateway_can_be_inspected(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        async with Clients(gateway.url) as clients:
            session = (await clients.player("polling", {"guest": True, "name": "Ada"})).session
        done = run("token", "inspect", session["token"], cwd=tmp_path)
    shown = json.loads(done.stdout)
    assert shown["true_id"] == session["true_id"]
    assert shown["session_id"] == session["session_id"]
    assert shown["name"] == "Ada"


# The rest


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, version("game-gateway") + "\n")


def test_it_runs_as_a_module_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"],
        env=own_environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == version("game-gateway") + "\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("--nonsense",),
        ("check-config",),
        ("users",),
        ("users", "add"),
        ("users", "remove"),
        ("users", "passwd"),
        ("users", "list", "ada"),
        ("token",),
        ("token", "inspect"),
        ("serve", "--port", "many"),
        ("serve", "--port", "65536"),
        ("serve", "--port", "-1"),
        ("serve", "--port", "\u0661"),
        ("default-config", "extra"),
        ("backup",),
        ("restore", "--force", "x"),
    ],
)
def test_wrong_usage_exits_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: game-gateway")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [(), ("serve",), ("users", "add"), ("token", "inspect"), ("check-config",), ("backup",)],
)
def test_help_is_there_for_every_command(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(("usage: game-gateway", *arguments)))


def test_serve_says_once_where_it_serves_and_stops_with_0(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        assert gateway.get("/readyz") == (200, "ok\n")
        gateway.stop()
        assert gateway.out == f"Serving {gateway.url}\n"


@pytest.mark.parametrize("listener", ["main", "metrics"])
def test_a_port_that_is_taken_is_a_failure_that_names_it(tmp_path: Path, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        if listener == "main":
            done = run("serve", "--port", address.rpartition(":")[2], cwd=tmp_path)
        else:
            done = run("serve", "--port", "0", cwd=tmp_path, GATEWAY_METRICS_LISTEN=address)
    assert (done.returncode, done.stdout) == (1, "")
    complaint = f"game-gateway: cannot listen on {address}: Address already in use"
    assert done.stderr.splitlines()[-1] == complaint
    assert "Traceback" not in done.stderr


def test_options_of_serve_come_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"server": {"host": "192.0.2.1"}}))
    arguments = ("--config", "gateway.yaml", "--host", "127.0.0.1", "--state-dir", "state")
    with GatewayProcess(tmp_path, *arguments) as gateway:
        assert gateway.url.startswith("http://127.0.0.1:")
        assert (tmp_path / "state" / "resume.key").exists()


def test_a_state_directory_that_cannot_be_made_exits_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("serve", "--port", "0", "--state-dir", "file/state", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "name another with --state-dir" in done.stderr
