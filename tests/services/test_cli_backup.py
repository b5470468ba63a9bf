"""`backup` and `restore`, as an operator runs them beside a gateway."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.gateway_process import TIMEOUT, GatewayProcess, run
from tests.transport.client import Clients, Player

BACKUP = "backup.db"


@pytest.mark.gen_test(timeout=TIMEOUT * 2)
async def test_a_backup_made_while_the_gateway_runs_sets_it_back_and_clients_are_told(
    tmp_path: Path,
) -> None:
    with GatewayProcess(tmp_path) as process:
        process.add_user("ada", "a long password")
        async with Clients(process.url) as clients:
            player = await clients.player()
            assert (await player.send(player, "kept"))["ok"]
            token = player.session["token"]
            made = run("backup", BACKUP, cwd=tmp_path)
            assert (made.returncode, made.stderr) == (0, "")
            assert made.stdout == f"{BACKUP}: gateway.db, resume.key, users\n"
            assert (await player.send(player, "lost"))["ok"]
            await player.event("message")
            lost, _ = await player.event("message")
            assert lost["data"] == "lost"
        refused = run("restore", BACKUP, cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            "game-gateway: var/gateway.db: is in use by a gateway; stop it, then restore\n"
        )
        process.stop()
        restored = run("restore", BACKUP, cwd=tmp_path)
        assert (restored.returncode, restored.stderr) == (0, "")
        first, second, *kept = restored.stdout.splitlines()
        assert first == "restored var/gateway.db"
        assert second.startswith("what was there before is var/gateway.db.replaced-")
        assert sorted(kept) == [
            f"left as it is: var/{name}; --replace-files takes it from the backup"
            for name in ("resume.key", "users")
        ]
        process.start()
        async with Clients(process.url) as clients:
            link = await clients.link("websocket")
            back = await Player.log_in(link, {"token": token, "offset": lost["id"]})
            assert back.true_id == player.true_id
            assert back.session["outcome"] == "store_reset"
            assert back.session["gap"] == {"after": lost["id"], "lost": None}
            again, _ = await back.event("message")
            assert again["data"] == "kept"


@pytest.mark.gen_test(timeout=TIMEOUT * 2)
async def test_a_backup_is_all_that_another_machine_needs(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    login = {"username": "ada", "password": "a long password"}
    variables = {"GATEWAY_AUTH_METHODS": "guest,password"}
    with GatewayProcess(old, variables=variables) as process:
        true_id = process.add_user("ada", "a long password")
        assert run("api-keys", "add", "shop", "send", cwd=old).returncode == 0
        async with Clients(process.url) as clients:
            player = await clients.player()
            token = player.session["token"]
    assert run("backup", new / BACKUP, cwd=old).returncode == 0
    done = run("restore", BACKUP, cwd=new)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"restored var/{name}" for name in ("api-keys", "gateway.db", "resume.key", "users")
    ]
    assert (new / "var").stat().st_mode & 0o777 == 0o700
    assert run("api-keys", "list", cwd=new).stdout == "shop send\n"
    with GatewayProcess(new, variables=variables) as process:
        async with Clients(process.url) as clients:
            back = await Player.log_in(await clients.link("websocket"), {"token": token})
            assert back.true_id == player.true_id
            assert (await clients.player(auth=login)).true_id == true_id


def test_a_database_of_users_is_taken_along_as_it_is_while_it_is_written(tmp_path: Path) -> None:
    users = str(tmp_path / "var" / "users.db")
    config = {"auth": {"methods": ["password"], "password": {"database": users}}}
    flags = ("--config", "gateway.yaml")
    with GatewayProcess(tmp_path, config=config) as process:
        true_id = process.add_user("ada", "a long password")
        with closing(sqlite3.connect(users)) as other:
            # As long as somebody has it open, its log stays what it is.
            other.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            process.add_user("bob", "a long password")
            made = run("backup", *flags, BACKUP, cwd=tmp_path)
        assert made.stdout == f"{BACKUP}: gateway.db, resume.key, users\n", made.stderr
        assert run("users", "remove", "ada", *flags, cwd=tmp_path).returncode == 0
    restored = run("restore", "--replace-files", *flags, BACKUP, cwd=tmp_path)
    assert restored.returncode == 0, restored.stderr
    listed = run("users", "list", *flags, cwd=tmp_path).stdout.splitlines()
    assert f"ada {true_id}" in listed
    assert len(listed) == 2


def test_what_is_configured_elsewhere_is_not_taken_along(tmp_path: Path) -> None:
    config = {
        "auth": {"password": {"file": str(tmp_path / "elsewhere")}},
        "resume": {"secret_keys": ["k" * 40]},
        "store": {"url": "sqlite:///games.db"},
    }
    with GatewayProcess(tmp_path, config=config):
        (tmp_path / "elsewhere").write_text("")
        (tmp_path / "var" / "resume.key").write_text("k" * 40)
        made = run("backup", "--config", "gateway.yaml", BACKUP, cwd=tmp_path)
        assert made.stdout == f"{BACKUP}: games.db\n"


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path):
        (tmp_path / BACKUP).write_text("precious")
        refused = run("backup", BACKUP, cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            f"game-gateway: {BACKUP}: exists; name another file, or replace it with --force\n"
        )
        assert (tmp_path / BACKUP).read_text() == "precious"
        assert run("backup", "--force", BACKUP, cwd=tmp_path).returncode == 0
        assert (tmp_path / BACKUP).read_bytes().startswith(b"SQLite format 3\0")


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_store_in_memory_has_no_backups(tmp_path: Path, command: str) -> None:
    done = run(command, BACKUP, cwd=tmp_path, GATEWAY_STORE_URL="memory://")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "store.url: memory:// keeps nothing in a file, so there is nothing to back up or restore\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_restore_of_nothing_makes_nothing(tmp_path: Path) -> None:
    done = run("restore", "nowhere.db", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "game-gateway: nowhere.db: there is no such file\n",
    )
    assert list(tmp_path.iterdir()) == []
