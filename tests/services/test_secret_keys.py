"""Signing keys: where they come from, that they are kept, and how they rotate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import ResumeConfig, StoreConfig
from gateway.config_loader import load_config
from gateway.errors import ConfigError, ConnectRefused
from gateway.messages import SessionId, TrueId
from gateway.secret_keys import load_secret_keys, load_store_password
from gateway.tokens import Tokens
from tests.gateway_process import ROOT, TIMEOUT, GatewayProcess, own_environment, run
from tests.transport.client import GUEST, Clients, Player, connect_refused

OLD, NEW, NEWEST = ("o" * 40, "n" * 40, "w" * 40)
NO_KEYS = ResumeConfig()


def write_keys(path: Path, *keys: str) -> Path:
    path.touch(0o600)
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def from_file(path: Path) -> ResumeConfig:
    return ResumeConfig(secret_key_file=str(path))


# Where they come from


def test_the_first_start_makes_a_key_that_only_the_owner_can_read(tmp_path: Path) -> None:
    (key,) = load_secret_keys(NO_KEYS, {}, tmp_path)
    assert len(bytes.fromhex(key)) == 32
    (path,) = tmp_path.iterdir()
    assert path.name == "resume.key"
    assert path.read_text() == f"{key}\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_wide_umask_does_not_open_the_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_secret_keys(NO_KEYS, {}, tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "resume.key").stat().st_mode & 0o777 == 0o600


def test_a_generated_key_is_kept(tmp_path: Path) -> None:
    first = load_secret_keys(NO_KEYS, {}, tmp_path)
    assert load_secret_keys(NO_KEYS, {}, tmp_path) == first


def test_every_installation_makes_another_key(tmp_path: Path) -> None:
    keys = set()
    for name in "abc":
        (tmp_path / name).mkdir()
        keys.update(load_secret_keys(NO_KEYS, {}, tmp_path / name))
    assert len(keys) == 3


def test_what_a_killed_start_left_does_not_hinder_the_next(tmp_path: Path) -> None:
    (tmp_path / f".resume.key.{os.getpid()}").write_text("half a k")
    assert len(load_secret_keys(NO_KEYS, {}, tmp_path)[0]) == 64


def test_nothing_is_made_where_that_is_not_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resume\.key: .*No such file"):
        load_secret_keys(NO_KEYS, {}, tmp_path, generate=False)
    assert not list(tmp_path.iterdir())


def test_gateways_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from gateway.config import ResumeConfig\n"
        "from gateway.secret_keys import load_secret_keys\n"
        "print(flush=True); sys.stdin.readline()\n"
        "print(*load_secret_keys(ResumeConfig(), {}, Path(sys.argv[1])))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            env=own_environment(PYTHONPATH=str(ROOT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    assert keys == {(tmp_path / "resume.key").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["resume.key"]


def test_a_file_holds_several_keys_the_first_first(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(f"\n  {NEW}\t\n\n{OLD}")
    assert load_secret_keys(from_file(path), {}, tmp_path) == (NEW, OLD)


def test_the_nearest_source_wins(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    (generated,) = load_secret_keys(NO_KEYS, environ, tmp_path)
    write_keys(credentials / "resume-secret-key", OLD)
    assert load_secret_keys(NO_KEYS, environ, tmp_path) == (OLD,)
    file = write_keys(tmp_path / "keys", NEW)
    assert load_secret_keys(from_file(file), environ, tmp_path) == (NEW,)
    both = ResumeConfig(secret_keys=(NEWEST,), secret_key_file=str(file))
    assert load_secret_keys(both, environ, tmp_path) == (NEWEST,)
    assert load_secret_keys(NO_KEYS, {}, tmp_path) == (generated,)


def test_keys_come_from_a_variable(tmp_path: Path) -> None:
    config = load_config(None, {"GATEWAY_RESUME_SECRET_KEYS": f"{NEW},{OLD}"})
    assert load_secret_keys(config.resume, {}, tmp_path) == (NEW, OLD)
    file = write_keys(tmp_path / "keys", OLD)
    config = load_config(None, {"GATEWAY_RESUME_SECRET_KEY_FILE": str(file)})
    assert load_secret_keys(config.resume, {}, tmp_path) == (OLD,)


# What is refused


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    path = write_keys(tmp_path / "keys")
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_secret_keys(from_file(path), {}, tmp_path)
    assert str(caught.value) == f"{path}: resume.secret_key_file is empty; write one key a line"


def test_a_short_key_is_refused_without_being_shown(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", NEW, "short-secret")
    with pytest.raises(ConfigError) as caught:
        load_secret_keys(from_file(path), {}, tmp_path)
    assert str(caught.value) == (
        f"{path}: resume.secret_key_file: key 2 is shorter than 32 characters; "
        "make one with: openssl rand -hex 32"
    )


@pytest.mark.parametrize("content", ["", "short-secret\n"])
def test_a_bad_credential_is_refused_and_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "resume-secret-key").write_text(content)
    with pytest.raises(ConfigError, match="credential resume-secret-key") as caught:
        load_secret_keys(NO_KEYS, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    assert "short-secret" not in str(caught.value)
    assert not (tmp_path / "resume.key").exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff" * 40), "it is not UTF-8"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "keys"
    make(path)
    with pytest.raises(ConfigError) as caught:
        load_secret_keys(from_file(path), {}, tmp_path)
    assert str(caught.value) == f"{path}: resume.secret_key_file cannot be read: {reason}"


def test_a_state_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the signing key cannot be written: No such file"):
        load_secret_keys(NO_KEYS, {}, tmp_path / "nowhere")


def test_a_key_that_others_can_read_is_warned_of_without_being_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_keys(tmp_path / "keys", NEW)
    load_secret_keys(from_file(path), {}, tmp_path)
    assert not caplog.messages
    path.chmod(0o644)
    load_secret_keys(from_file(path), {}, tmp_path)
    assert caplog.messages == [f"{path} can be read by others; do: chmod 600 {path}"]


def test_serve_refuses_bad_keys_with_2(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", "short-secret")
    done = run(*("serve", "--port", "0"), cwd=tmp_path, GATEWAY_RESUME_SECRET_KEY_FILE="keys")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("keys: resume.secret_key_file: key 1 is shorter")
    assert "short-secret" not in done.stderr


# Rotation


def test_old_keys_verify_and_the_first_signs() -> None:
    def tokens(*keys: str) -> Tokens:
        return Tokens(keys, 600.0, lambda: 1000.0)

    def sign(signer: Tokens) -> str:
        return signer.sign_token(TrueId("p"), SessionId("s"), 1, "e", "Ada", "guest")

    before, during, after = tokens(OLD), tokens(NEW, OLD), tokens(NEW)
    assert during.verify_token(sign(before)).true_id == "p"
    assert after.verify_token(sign(during)).true_id == "p"
    pid = before.sign_pid(TrueId("p"), SessionId("s"))
    assert during.verify_pid(pid) is not None
    assert after.verify_pid(during.sign_pid(TrueId("p"), SessionId("s"))) is not None
    with pytest.raises(ConnectRefused, match="not valid here"):
        after.verify_token(sign(before))
    assert after.verify_pid(pid) is None


async def log_in(gateway: GatewayProcess, **auth: object) -> Player:
    """Return who it was; the connection is closed."""
    async with Clients(gateway.url) as clients:
        return await clients.player("polling", auth)


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_keys_rotate_without_logging_anyone_out(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    variables = {"GATEWAY_RESUME_SECRET_KEY_FILE": str(keys)}
    write_keys(keys, OLD)
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        first = await log_in(gateway, guest=True, name="Ada")
        gateway.stop()

        write_keys(keys, NEW, OLD)
        gateway.start()
        second = await log_in(gateway, token=first.session["token"])
        assert (second.session["outcome"], second.session["resumed"]) == ("resumed", True)
        assert (second.true_id, second.session["name"]) == (first.true_id, "Ada")
        again = (await log_in(gateway, pid=second.pid)).session
        assert again["outcome"] == "resumed"
        assert again["session_id"] == second.session["session_id"]
        gateway.stop()
        assert Tokens([NEW], 600.0, lambda: 0.0).verify_pid(second.pid) is not None

        write_keys(keys, NEW)
        gateway.start()
        assert (await log_in(gateway, token=again["token"])).true_id == first.true_id
        async with Clients(gateway.url) as clients:
            spent = {"token": first.session["token"]}
            assert await connect_refused(await clients.polling(), spent) == "token_invalid"


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_a_generated_key_outlives_restarts(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        first = await log_in(gateway, **GUEST)
        gateway.stop()
        gateway.start()
        second = await log_in(gateway, token=first.session["token"])
        assert second.true_id == first.true_id


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_systemd_hands_the_key_over(tmp_path: Path) -> None:
    write_keys(tmp_path / "resume-secret-key", NEW)
    state = tmp_path / "state"
    variables = {"CREDENTIALS_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": str(state)}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        player = await log_in(gateway, **GUEST)
    assert Tokens([NEW], 600.0, lambda: 0.0).verify_pid(player.pid) is not None
    assert state.exists()
    assert not (state / "resume.key").exists()


# The store's password


def test_the_stores_password_comes_from_the_configuration_a_file_or_a_credential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load_store_password(StoreConfig(), credentials) == ""
    write_keys(tmp_path / "store-password", "from systemd")
    assert load_store_password(StoreConfig(), credentials) == "from systemd"
    file = str(write_keys(tmp_path / "file", "from a file"))
    assert load_store_password(StoreConfig(password_file=file), credentials) == "from a file"
    assert load_store_password(StoreConfig(password="given"), credentials) == "given"
    assert "can be read by others" not in caplog.text


@pytest.mark.parametrize("lines", [(), ("SECRET", "TERCES")])
def test_a_file_without_one_password_is_named(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path = write_keys(tmp_path / "file", *lines)
    with pytest.raises(ConfigError) as caught:
        load_store_password(StoreConfig(password_file=str(path)), {})
    assert str(caught.value) == (
        f"{path}: store.password_file must have the password in one line, has {len(lines)}"
    )
