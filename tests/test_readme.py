"""README.md tells the truth: its code, its configuration and its commands are run here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from gateway.api_calls import CALLS
from gateway.client import Guest, WebhookInvalid, connect
from gateway.connection import CLIENT_EVENTS
from gateway.errors import CONNECT_CODES, REQUEST_CODES
from gateway.messages import ListPlayers, Receipt, SendMessage
from gateway.outbox import WebhookType
from gateway.posting import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from tests.gateway_process import (
    COMMAND,
    ROOT,
    TIMEOUT,
    GatewayProcess,
    own_environment,
    program,
    run,
)
from tests.questioned_backend import SECRET, QuestionedBackend
from tests.redis_servers import RedisServer
from tests.transport.client import Clients, connect_refused

README = (ROOT / "README.md").read_text()
STOCK_CLIENT = ROOT / "tests" / "e2e" / "node" / "node_modules" / "socket.io-client"
MAX_EXAMPLE_LINES = 20


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no {language} block"
    return found


def shell_lines() -> list[str]:
    return "".join(blocks("sh")).splitlines()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path, variables={"GATEWAY_AUTH_METHODS": "guest,password"}) as process:
        yield process


# Code


def test_every_block_names_a_language_that_is_tested() -> None:
    opened = re.findall(r"^```(\w*)$", README, re.MULTILINE)[::2]
    assert set(opened) == {"sh", "html", "js", "python", "yaml"}


def test_the_client_is_short_and_runs_against_a_gateway(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    example = blocks("js")[0]
    assert len(example.splitlines()) <= MAX_EXAMPLE_LINES
    script = tmp_path / "game.js"
    script.write_text(example)
    node = program("node")
    subprocess.run([node, "--check", script], check=True, timeout=TIMEOUT)
    done = subprocess.run(
        [node, ROOT / "tests" / "readme_client.cjs", script, gateway.url, STOCK_CLIENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + gateway.log


def test_the_module_example_is_short_and_runs_against_a_gateway(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    (example,) = blocks("js")[1:]
    assert len(example.splitlines()) <= MAX_EXAMPLE_LINES
    script = tmp_path / "game.mjs"
    script.write_text(example)
    done = subprocess.run(
        [
            program("node"),
            ROOT / "tests" / "readme_module.mjs",
            script,
            gateway.url,
            STOCK_CLIENT,
            ROOT / "gateway" / "static",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + gateway.log


def test_the_page_is_served_and_allowed_to_load_its_scripts(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(blocks("html")[0])
    (site / "game.js").write_text(blocks("js")[0])
    variables = {"GATEWAY_STATIC_PATH": str(site)}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        status, page = gateway.get("/")
        assert status == 200
        scripts = re.findall(r'<script src="([^"]+)"></script>', page)
        assert len(scripts) == page.count("<script")
        for script in scripts:
            assert gateway.get("/" + script.lstrip("/"))[0] == 200


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_the_game_server_example_runs_against_a_gateway(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    password = "a long password"
    added = run("users", "add", "backend", "--password-stdin", cwd=tmp_path, text=password)
    assert added.returncode == 0
    (example,) = (block for block in blocks("python") if "socketio" in block)
    main = "\nimport asyncio, sys\nprint(asyncio.run(reward(*sys.argv[1:])))\n"
    async with Clients(gateway.url) as clients:
        player = await clients.player()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", example + main, gateway.url, password, player.true_id],
            env=own_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "delivered\n"), done.stderr
        message, _ = await player.event("message")
    assert message["data"] == {"coins": 5}
    assert message["from"] == added.stdout.split()[1]


@pytest.mark.gen_test(timeout=TIMEOUT * 4)
async def test_the_bot_example_answers_also_after_its_own_restart(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    password = "a long password"
    added = run("users", "add", "backend", "--password-stdin", cwd=tmp_path, text=password)
    true_id = added.stdout.split()[1]
    (example,) = (block for block in blocks("python") if "FileStorage" in block)
    main = "\nimport asyncio, sys\nasyncio.run(answer(*sys.argv[1:]))\n"
    async with connect(gateway.url, Guest("Ada")) as ada:
        rewards, online = ada.messages(), asyncio.Event()
        ada.on("presence", lambda presence: presence.state == "active" and online.set())
        await ada.watch([true_id])
        for points in (30, 50):
            if online.is_set():
                # The bot is down.
                await ada.send(true_id, {"points": points}, type="score")
            bot = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                example + main,
                gateway.url,
                password,
                cwd=tmp_path,
                env=own_environment(PYTHONPATH=str(ROOT)),
            )
            try:
                if not online.is_set():
                    await asyncio.wait_for(online.wait(), TIMEOUT)
                    await ada.send(true_id, {"points": points}, type="score")
                reward = await asyncio.wait_for(anext(rewards), TIMEOUT)
                assert (reward.type, reward.data) == ("reward", {"coins": points // 10})
                assert reward.sender == true_id
            finally:
                bot.kill()
                await bot.wait()
    assert (tmp_path / "backend.session").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_the_configuration_is_accepted(tmp_path: Path, number: int) -> None:
    (tmp_path / "gateway.yaml").write_text(blocks("yaml")[number])
    checked = run("check-config", "gateway.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")


# Commands


def test_only_commands_that_are_tested_are_shown() -> None:
    for line in shell_lines():
        shown = (
            r"make |game-gateway |echo .* \| game-gateway |curl -f (http|-H @)|sed .* backend\.key"
        )
        assert re.match(shown, line), line


def test_the_make_targets_exist() -> None:
    shown = set(re.findall(r"\bmake ([a-z]+)", README))
    assert shown >= {"run", "test", "lint", "format", "clean", "help"}
    for target in shown & {shlex.split(line)[1] for line in shell_lines() if line[:5] == "make "}:
        done = subprocess.run(
            [program("make"), "--question", "--silent", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert "No rule to make target" not in done.stderr
        assert done.returncode in (0, 1), done.stderr


def test_the_commands_work_in_the_order_they_are_shown(tmp_path: Path) -> None:
    commands = [line for line in shell_lines() if "game-gateway" in line]
    assert len(commands) > 5
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    for line in commands:
        if line.startswith("game-gateway serve"):
            # On a free port, for the one that is shown may be taken here.
            with GatewayProcess(tmp_path, *shlex.split(line)[2:]) as gateway:
                assert gateway.get("/readyz")[0] == 200
            continue
        done = subprocess.run(
            [program("bash"), "-c", line],
            cwd=tmp_path,
            env=own_environment(PATH=path, PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line


def test_the_requests_are_answered(gateway: GatewayProcess) -> None:
    curls = [shlex.split(line) for line in shell_lines() if line.startswith("curl -f http")]
    assert len(curls) == 3
    for words in curls:
        command = [word.replace("http://127.0.0.1:8080/", gateway.url) for word in words]
        assert command != words
        done = subprocess.run(
            [program("curl"), "--silent", "--show-error", *command[1:]],
            env=own_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_calls_of_the_api_are_answered(tmp_path: Path, gateway: GatewayProcess) -> None:
    """The key is made as it is shown, and each call is shown once."""
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    # There is none with this id, and that is all right.
    variables = own_environment(PATH=path, PYTHONPATH=str(ROOT), WEBHOOK="none")
    called = []
    for line in shell_lines():
        if not re.search(r" backend\.key|@backend\.auth", line):
            continue
        done = subprocess.run(
            [program("bash"), "-c", line.replace("http://127.0.0.1:8080/", gateway.url)],
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if line.startswith("curl "):
            answer = json.loads(done.stdout)
            variables["SESSION"] = answer.get("session_id") or variables["SESSION"]
            method = re.search(r"-X (\w+)", line)
            default = "POST" if "--json" in line else "GET"
            url = line.partition("/api/v1")[2].rstrip("'").partition("?")[0]
            template = url.replace("u-1", "{true_id}").replace("$SESSION", "{session_id}")
            template = template.replace("lobby", "{room}").replace("$WEBHOOK", "{webhook_id}")
            called.append((method[1] if method else default, template))
    assert sorted(called) == sorted((call.method, call.path) for call in CALLS)


def test_every_call_of_the_api_is_listed_with_its_scope() -> None:
    section = README.partition("\n## HTTP API for the game's backend\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+) (/[^`]*)`.* \| `(\w+)` \| ", section, re.MULTILINE)
    assert listed == [(call.method, call.path, call.scope) for call in CALLS]


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_the_backend_example_runs_against_a_gateway(
    tmp_path: Path, gateway: GatewayProcess
) -> None:
    key = run("api-keys", "add", "backend", "send", "sessions", cwd=tmp_path).stdout.strip()
    (example,) = (block for block in blocks("python") if "GatewayApi" in block)
    main = "\nimport asyncio, sys\nprint(asyncio.run(welcome(*sys.argv[1:])))\n"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", example + main, gateway.url, key, "u-1", "Ada"],
        env=own_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    async with Clients(gateway.url) as clients:
        player = await clients.player(auth={"token": done.stdout.strip()})
        message, _ = await player.event("message")
    assert (player.session["name"], message["data"]) == ("Ada", {"coins": 5})


def test_the_receiver_example_takes_what_is_signed(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (block for block in blocks("python") if "verify_webhook" in block)
    names: dict[str, Any] = {}
    exec(example, names)
    body = b'{"id":"1","type":"player.online","ts":1,"true_id":"ann","data":{}}'
    now = str(int(time.time()))
    headers = {"Webhook-Timestamp": now, "Webhook-Signature": sign(body, now, ["secret"])}
    seen: set[str] = set()
    assert names["take"](body, headers, ["secret"], seen) == 204
    assert names["take"](body, headers, ["secret"], seen) == 204
    assert names["take"](body, headers, ["other"], seen) == 400
    assert capsys.readouterr().out == "player.online ann\n"


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_the_backend_example_decides_who_players_are_and_where_they_go(
    tmp_path: Path,
) -> None:
    (example,) = (block for block in blocks("python") if "verify_signature" in block)
    names: dict[str, Any] = {}
    exec(example, names)
    tickets = {"good": {"id": "u-1", "name": "Ada"}}
    backend = QuestionedBackend()

    def answer(question: dict[str, Any]) -> Any:
        headers, body = backend.requests[-1]
        with pytest.raises(WebhookInvalid):
            names["answer"](body + b" ", headers, [SECRET], tickets)
        return names["answer"](body, headers, [SECRET], tickets)

    backend.answer = answer
    await backend.start()
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    (settings,) = (block for block in blocks("yaml") if "rooms:" in block)
    settings = settings.replace("https://backend.example/gateway", backend.url)
    settings = settings.replace("/etc/game-gateway/webhook-secret", str(tmp_path / "secret"))
    with GatewayProcess(tmp_path, config=yaml.safe_load(settings)) as gateway:
        async with Clients(gateway.url) as clients:
            player = await clients.player(auth={"ticket": "good"})
            assert (player.true_id, player.session["name"]) == ("u-1", "Ada")
            assert (await player.call("join", {"room": "red"}))["ok"]
            error = (await player.call("join", {"room": "blue"}))["error"]
            assert error["code"] == "forbidden"
            link = await clients.link("websocket")
            assert await connect_refused(link, {"ticket": "bad"}) == "bad_credentials"
    await backend.stop()


def write_secret(path: Path, secret: str) -> None:
    path.touch(0o600)
    path.write_text(secret)


@pytest.mark.gen_test(timeout=2 * TIMEOUT)
async def test_nodes_that_are_set_up_as_shown_are_one_gateway(tmp_path: Path) -> None:
    (settings,) = (block for block in blocks("yaml") if "internal:" in block)
    for name, secret in (("keys", "k" * 40), ("password", "a password")):
        write_secret(tmp_path / name, secret)
    with RedisServer(tmp_path / "redis", appendonly="everysec", password="a password") as redis:
        for shown, here in {
            "10.0.0.11:8081": "127.0.0.1:0",
            "10.0.0.11": "127.0.0.1",
            "redis://10.0.0.21:6379": redis.url,
            "/etc/game-gateway/resume-secret-keys": str(tmp_path / "keys"),
            "/etc/game-gateway/redis-password": str(tmp_path / "password"),
        }.items():
            assert shown in settings
            settings = settings.replace(shown, here)
        with ExitStack() as stack:
            urls = []
            for folder in (tmp_path / "a", tmp_path / "b"):
                folder.mkdir()
                node = GatewayProcess(folder, config=yaml.safe_load(settings))
                urls.append(stack.enter_context(node).url)
            async with Clients(urls[0]) as first, Clients(urls[1]) as second:
                ann, bob = await first.player(), await second.player()
                assert (await ann.send(bob, "hello"))["status"] == "delivered"
                assert await bob.message() == "hello"
                # A request for a session of the first, at the second.
                polling = await first.polling()
                assert (await second.engine("POST", "40", sid=polling.sid)).body == b"ok"


def test_every_webhook_is_listed() -> None:
    section = README.partition("\n## Webhooks\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([a-z]+\.[a-z]+)` \| ", section, re.MULTILINE)
    assert listed == list(get_args(WebhookType))
    for header in (TIMESTAMP_HEADER, SIGNATURE_HEADER):
        assert f"`{header}`" in section


# Tables


def rows(heading: str) -> dict[str, str]:
    """Return the table after a heading: first column, rest of the row."""
    section = README.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", section, re.MULTILINE))


def test_every_event_and_key_is_there() -> None:
    events = rows("Events from the client")
    assert set(events) == set(CLIENT_EVENTS)
    for struct in (SendMessage, Receipt):
        assert all(
            re.search(rf"\b{name}\b", events["message"]) for name in struct.__struct_fields__
        )
    assert all(
        re.search(rf"\b{name}\b", events["players"]) for name in ListPlayers.__struct_fields__
    )


def test_every_code_is_there() -> None:
    for code in {*CONNECT_CODES, *REQUEST_CODES}:
        assert f"`{code}`" in README, code


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_the_greeting_has_the_keys_that_are_shown(gateway: GatewayProcess) -> None:
    async with Clients(gateway.url) as clients:
        session = (await clients.player()).session
    shown = rows("Events from the gateway")["session"]
    keys = re.search(r"\{(.*)\}", shown)
    assert keys is not None
    assert set(keys[1].split(", ")) == set(session)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:tests|config|systemd|gateway)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path
