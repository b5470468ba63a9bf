"""What a client keeps: the file, and what is received and handled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.client import FileStorage, Gap, MemoryStorage, Record, Storage, StorageInUse
from gateway.client.memory import Memory
from gateway.client.payloads import Greeting
from tests.gateway_process import ROOT

RECORD = Record("http://gateway.example:80/socket.io", "secret-token", "guest", "m1")


def greeting(token: str, outcome: str = "resumed", gap: Gap | None = None) -> Greeting:
    return Greeting(
        true_id="p_1", session_id="s_1", resumed=True, outcome=outcome, gap=gap, token=token
    )


def memory(storage: Storage) -> Memory:
    opened = Memory(storage, RECORD.gateway, "guest")
    opened.open()
    return opened


def test_a_record_survives(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "bot")
    assert storage.open() is None
    storage.save(RECORD, durable=True)
    storage.close()
    assert FileStorage(tmp_path / "bot").open() == RECORD
    assert "secret" not in repr(RECORD)


@pytest.mark.expects_warnings
def test_only_the_owner_may_read_it_whatever_was_there(tmp_path: Path) -> None:
    file = tmp_path / "bot"
    for leftover in (file, tmp_path / "bot.new"):
        leftover.write_text("old")
        leftover.chmod(0o644)
    storage = FileStorage(file)
    assert storage.open() is None
    storage.save(RECORD, durable=False)
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bot", "bot.lock"]


@pytest.mark.expects_warnings
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"token": 7}', b"\xff"])
def test_a_damaged_file_is_no_record(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "bot").write_bytes(text)
    assert FileStorage(tmp_path / "bot").open() is None


def test_another_process_is_kept_out_until_this_one_ends(tmp_path: Path) -> None:
    file = tmp_path / "bot"
    script = (
        "import sys; from gateway.client import FileStorage\n"
        "FileStorage(sys.argv[1]).open(); print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, file],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StorageInUse, match="give each client a file"):
            FileStorage(file).open()
        other.kill()
    FileStorage(file).open()


@pytest.mark.expects_warnings
def test_a_token_that_cannot_be_kept_leaves_no_older_one(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "bot")
    storage.open()
    storage.save(RECORD, durable=True)
    # A folder in the place of the new file stands for a disk that takes nothing.
    (tmp_path / "bot.new").mkdir()
    storage.save(RECORD, durable=True)
    assert not (tmp_path / "bot").exists()


def test_after_close_nothing_is_written(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "bot")
    first = memory(storage)
    first.accept(greeting("t1", "new"))
    first.close()
    kept = (tmp_path / "bot").read_bytes()
    first.received("m1")
    first.handled("m1", first.era)
    first.forget()
    assert (tmp_path / "bot").read_bytes() == kept


def test_received_goes_with_reconnects_and_handled_with_the_next_process() -> None:
    storage = MemoryStorage()
    first = memory(storage)
    first.accept(greeting("t1", "new"))
    assert (first.token, first.offset) == ("t1", None)
    for message in ("m1", "m2", "m3"):
        first.received(message)
    first.handled("m1", first.era)
    assert first.offset == "m3"
    assert first.accept(greeting("t2")) is None
    assert first.offset == "m3"
    first.close()
    second = memory(storage)
    assert (second.token, second.offset) == ("t2", "m1")


def test_what_an_earlier_process_left_unhandled_is_said_to_be_lost_once() -> None:
    storage = MemoryStorage()
    first = memory(storage)
    first.accept(greeting("t1", "new"))
    first.received("m1")
    # Not over its own reconnects: it still has the message.
    assert first.accept(greeting("t2")) is None
    first.close()
    second = memory(storage)
    assert second.accept(greeting("t3")) == Gap(None, None)
    assert second.accept(greeting("t4")) is None


def test_a_lost_store_ends_what_ids_mean() -> None:
    storage = MemoryStorage()
    first = memory(storage)
    first.accept(greeting("t1", "new"))
    first.received("a1")
    era = first.era
    gap = Gap("a1", None)
    assert first.accept(greeting("t2", "store_reset", gap)) == gap
    assert first.offset is None
    first.handled("a1", era)
    assert first.offset is None


def test_a_record_of_other_credentials_is_forgotten() -> None:
    storage = MemoryStorage()
    first = memory(storage)
    first.accept(greeting("t1", "new"))
    first.close()
    other = Memory(storage, RECORD.gateway, "password:backend")
    other.open()
    assert other.token is None
