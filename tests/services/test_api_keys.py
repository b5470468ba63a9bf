"""API keys: the file, its writers, and what a running gateway makes of changes."""

from __future__ import annotations

import logging
import multiprocessing
import stat
from pathlib import Path

import pytest

from gateway import api_keys
from gateway.api_keys import SCOPES, ApiKeysError, ApiKeysFile, Scope, parse_scopes

ALL: frozenset[Scope] = frozenset(SCOPES)
SEND: frozenset[Scope] = frozenset({"send"})
DIGEST = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api-keys"


@pytest.fixture
def keys(path: Path) -> ApiKeysFile:
    return ApiKeysFile(path)


def put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_a_missing_file_has_no_keys(keys: ApiKeysFile, path: Path) -> None:
    keys.load()
    assert (keys.list(), keys.find("gk_x"), path.exists()) == ([], None, False)


def test_an_added_key_is_found_by_its_secret_which_is_kept_nowhere(
    keys: ApiKeysFile, path: Path
) -> None:
    key, secret = keys.add("shop", SEND)
    _, other = keys.add("ops", ALL)
    assert (key.name, key.scopes) == ("shop", {"send"})
    assert keys.find(secret) == key
    assert keys.find(other) != key
    assert [found.name for found in keys.list()] == ["shop", "ops"]
    for wrong in ("", secret[:-1], secret + "x", key.digest, "\ud800", "x" * 1000):
        assert keys.find(wrong) is None
    text = path.read_text()
    assert secret not in text
    assert secret.removeprefix("gk_") not in text
    assert f"shop:send:{key.digest}\n" in text
    assert text.startswith("# ")
    assert "ops:send,read,sessions,admin:" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.digest not in repr(key)


def test_secrets_are_long_and_differ(keys: ApiKeysFile) -> None:
    secrets = {keys.add(f"k{number}", SEND)[1] for number in range(20)}
    assert len(secrets) == 20
    assert all(len(secret) == len("gk_") + 43 for secret in secrets)


def test_a_removed_key_is_found_no_more_and_other_lines_stay(keys: ApiKeysFile, path: Path) -> None:
    _, secret = keys.add("shop", SEND)
    _, other = keys.add("shop.2", SEND)
    path.write_text(path.read_text() + "# mine\n\n")
    keys.remove("shop")
    assert keys.find(secret) is None
    assert keys.find(other) is not None
    assert "# mine\n" in path.read_text()


@pytest.mark.parametrize("name", ["", "a b", "a:b", "#a", "\u00e9", "x" * 65, "a\n"])
def test_a_name_is_plain(keys: ApiKeysFile, path: Path, name: str) -> None:
    with pytest.raises(ApiKeysError, match="1 to 64 letters"):
        keys.add(name, SEND)
    assert not path.exists()


def test_a_name_exists_once(keys: ApiKeysFile) -> None:
    _, secret = keys.add("shop", SEND)
    with pytest.raises(ApiKeysError, match="remove it first"):
        keys.add("shop", SEND)
    assert keys.find(secret) is not None
    with pytest.raises(ApiKeysError, match="no key 'other' in"):
        keys.remove("other")


def test_scopes_are_known_and_there_is_one() -> None:
    assert parse_scopes(["read", "send", "read"]) == {"read", "send"}
    with pytest.raises(ApiKeysError, match="unknown scope 'sned'; use send, read, sessions"):
        parse_scopes(["read", "sned"])
    with pytest.raises(ApiKeysError, match="no scope"):
        parse_scopes([])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gk_pasted", "not name:scopes:digest"),
        (f"a b:send:{DIGEST}", "the name must be"),
        (f"a:sned:{DIGEST}", "unknown scope 'sned'"),
        (f"a::{DIGEST}", "unknown scope ''"),
        ("a:send:gk_pasted", "not a SHA-256 digest"),
        (f"ok:read:{'1' * 64}", "name is that of line 1"),
        (f"other:read:{DIGEST}", "digest is that of line 1"),
    ],
)
def test_a_broken_line_is_named_and_not_repeated(path: Path, line: str, message: str) -> None:
    put(path, f"ok:send:{DIGEST}\n{line}\n")
    with pytest.raises(ApiKeysError, match=message) as caught:
        ApiKeysFile(path).load()
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert "pasted" not in str(caught.value)


def test_a_file_that_breaks_leaves_the_keys_from_before_in_force(
    keys: ApiKeysFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = keys.add("shop", SEND)
    assert keys.find(secret) is not None
    good = path.read_text()
    put(path, good + "nonsense\n")
    for _ in range(3):
        assert keys.find(secret) is not None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "line 3" in record.getMessage()
    put(path, good)
    assert keys.find(secret) is not None


def test_changes_of_another_process_are_followed(keys: ApiKeysFile, path: Path) -> None:
    _, secret = ApiKeysFile(path).add("shop", SEND)
    found = keys.find(secret)
    assert found is not None
    ApiKeysFile(path).remove("shop")
    assert keys.find(secret) is None
    path.unlink()
    assert keys.find(secret) is None


def test_the_number_of_keys_is_bounded(
    keys: ApiKeysFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 2)
    keys.add("a", SEND)
    keys.add("b", SEND)
    before = path.read_text()
    with pytest.raises(ApiKeysError, match="more than 2 keys"):
        keys.add("c", SEND)
    assert path.read_text() == before


def test_a_file_that_others_may_read_is_warned_of(
    keys: ApiKeysFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys.add("shop", SEND)
    path.chmod(0o644)
    keys.load()
    assert "chmod 600" in caplog.text
    keys.add("other", SEND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _add(path: Path, name: str) -> None:
    for number in range(10):
        ApiKeysFile(path).add(f"{name}{number}", SEND)


def test_writers_take_turns(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(ApiKeysFile(path).list()) == 30
