"""The sqlite store's file: its tables, their versions, and how it is opened.

Ids and keys come from clients, so they are escaped where they pass through SQLite's JSON
functions, which end a text at its first NUL.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.errors import ConfigError

_CHECKPOINT_PAGES: Final = 4000
_CACHE_KIB: Final = 32_768
#: The first with the operator ->>.
_MIN_SQLITE: Final = (3, 38, 0)
#: How long another program's lock is waited for, in milliseconds.
BUSY_TIMEOUT: Final = 1000

_VERSION_1: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE players (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        true_id TEXT NOT NULL UNIQUE,
        permanent INTEGER NOT NULL,
        head INTEGER NOT NULL,
        first INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        keys INTEGER NOT NULL,
        sessions INTEGER NOT NULL,
        confirmed INTEGER NOT NULL,
        reclaim INTEGER)""",
    "CREATE INDEX players_reclaim ON players (reclaim) WHERE reclaim IS NOT NULL",
    """CREATE INDEX players_empty ON players (id)
        WHERE permanent = 0 AND sessions = 0 AND keys = 0 AND first > head""",
    """CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        mailbox INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        ts REAL NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (mailbox, offset))""",
    """CREATE TABLE keys (
        sender INTEGER NOT NULL,
        key TEXT NOT NULL,
        ts REAL NOT NULL,
        target TEXT NOT NULL,
        offset INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        UNIQUE (sender, key))""",
    "CREATE INDEX keys_ts ON keys (ts)",
    "CREATE INDEX keys_sender ON keys (sender, ts)",
    """CREATE TABLE sessions (
        id TEXT NOT NULL UNIQUE,
        player INTEGER NOT NULL,
        name TEXT NOT NULL,
        method TEXT NOT NULL,
        pid TEXT NOT NULL,
        last_seen REAL NOT NULL,
        start INTEGER NOT NULL,
        confirmed INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        opened INTEGER NOT NULL,
        idle INTEGER)""",
    "CREATE INDEX sessions_player ON sessions (player)",
    "CREATE INDEX sessions_idle ON sessions (idle)",
    "CREATE INDEX sessions_seen ON sessions (last_seen) WHERE idle IS NOT NULL",
    """CREATE TABLE revocations (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (kind, id)) WITHOUT ROWID""",
    "CREATE INDEX revocations_at ON revocations (at)",
    "CREATE TABLE bans (true_id TEXT PRIMARY KEY, until REAL, reason TEXT NOT NULL) WITHOUT ROWID",
)

#: Numbers of webhooks are never used twice: AUTOINCREMENT. `nonce` is part of their ids.
_OUTBOX: Final = (
    """CREATE TABLE webhooks (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        nonce INTEGER NOT NULL,
        type TEXT NOT NULL,
        true_id TEXT NOT NULL,
        ts REAL NOT NULL,
        data BLOB NOT NULL)""",
    """CREATE TABLE dead_webhooks (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        given_up REAL NOT NULL,
        reason TEXT NOT NULL,
        seq INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        type TEXT NOT NULL,
        true_id TEXT NOT NULL,
        ts REAL NOT NULL,
        data BLOB NOT NULL)""",
    "CREATE TABLE online (true_id TEXT PRIMARY KEY) WITHOUT ROWID",
)

_SET_EPOCH: Final = "INSERT OR REPLACE INTO meta VALUES ('epoch', ?)"

Migration = Callable[[sqlite3.Connection], None]


def _create(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1:
        connection.execute(statement)
    connection.execute(_SET_EPOCH, (secrets.token_hex(4),))
    connection.execute("INSERT INTO meta VALUES ('writes', 0)")


def _add_attributes(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE sessions ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}'")


_VERSION_3: Final = (
    """CREATE TABLE members (
        number INTEGER PRIMARY KEY,
        room TEXT NOT NULL,
        player INTEGER NOT NULL,
        UNIQUE (room, player))""",
    "CREATE INDEX members_player ON members (player)",
    "ALTER TABLE messages ADD COLUMN skip TEXT",
    "CREATE INDEX messages_skip ON messages (mailbox, skip) WHERE skip IS NOT NULL",
    "ALTER TABLE players ADD COLUMN hole_after INTEGER",
    "ALTER TABLE players ADD COLUMN hole_lost INTEGER",
)


def _add_rooms(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_3:
        connection.execute(statement)


def _add_outbox(connection: sqlite3.Connection) -> None:
    for statement in _OUTBOX:
        connection.execute(statement)


#: See sqlite_copies. The body comes first: a long list of members lies on pages of its own.
#: Messages that are folded are older than others of their `seq`.
_VERSION_5: Final = (
    """CREATE TABLE room_messages (
        seq INTEGER PRIMARY KEY,
        nonce INTEGER NOT NULL,
        ts REAL NOT NULL,
        body BLOB NOT NULL,
        members BLOB NOT NULL)""",
    "ALTER TABLE players ADD COLUMN folded INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE messages ADD COLUMN folded INTEGER",
    "CREATE INDEX messages_folded ON messages (ts) WHERE folded IS NOT NULL",
)


def _add_room_messages(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_5:
        connection.execute(statement)


def _add_bundles(connection: sqlite3.Connection) -> None:
    # Releases before know nothing of rows with more than one message.
    connection.execute("ALTER TABLE room_messages RENAME TO log")


#: The n-th turns a file of version n into one of version n + 1.
MIGRATIONS: Final[tuple[Migration, ...]] = (
    _create,
    _add_attributes,
    _add_rooms,
    _add_outbox,
    _add_room_messages,
    _add_bundles,
)


def migrate(connection: sqlite3.Connection, path: Path, steps: Sequence[Migration]) -> None:
    """Bring the file to the newest version, each step in a transaction of its own.

    Raises ConfigError for a file that a newer release has written.
    """
    version = check_version(connection, path, steps)
    for number in range(version, len(steps)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            steps[number](connection)
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def check_version(connection: sqlite3.Connection, path: Path, steps: Sequence[Migration]) -> int:
    """Return the file's format. Raises ConfigError for one that a newer release has written."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise ConfigError(
            f"{path} has format {version}, and this release knows up to {len(steps)}: "
            "install the release that wrote it or a newer one, restore a backup that was made "
            "before the upgrade, or name another file in store.url"
        )
    return version


def mark_backup(connection: sqlite3.Connection, now: float) -> None:
    """Make a copy of a store a backup: `begin_epoch` will know it. `now` is in Unix seconds."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('backup', ?)", (now,))
    connection.execute(
        "CREATE TABLE IF NOT EXISTS backup_files (name TEXT PRIMARY KEY, content BLOB NOT NULL)"
    )


def begin_epoch(connection: sqlite3.Connection) -> None:
    """Give a backup that is used as a store an epoch of its own; leave any other store alone.

    Its offsets were given to other messages since it was made, so a position of then must not
    look like one of now. The files that it carries, with secrets in them, go.
    """
    if connection.execute("SELECT 1 FROM meta WHERE name = 'backup'").fetchone() is None:
        return
    (secure,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_SET_EPOCH, (secrets.token_hex(4),))
    connection.execute("DROP TABLE IF EXISTS backup_files")
    connection.execute("DELETE FROM meta WHERE name = 'backup'")
    connection.execute("COMMIT")
    connection.execute(f"PRAGMA secure_delete = {secure}")


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, all for their owner only."""
    for each in reversed((folder, *folder.parents)):
        each.mkdir(mode=0o700, exist_ok=True)


def prepare(path: Path) -> None:
    """Make the file, readable by its owner only, and its folders. Raises OSError.

    A file or folder that is there keeps its mode, even if others may read it.
    """
    make_folders(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def lock(path: Path) -> int:
    """Keep other gateways out; return the descriptor that holds the lock.

    It is a lock on a file beside the store, so that other programs may read the store
    (backups). Raises ConfigError when another process has it, and OSError.
    """
    beside = path.with_name(path.name + ".lock")
    make_folders(beside.parent)
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"{path} is in use by another gateway: stop that one, or name another file in store.url"
        ) from None
    return descriptor


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """Return a connection for writing. Raises sqlite3.Error, and ConfigError for a bad SQLite."""
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise ConfigError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and the sqlite store needs "
            f"{'.'.join(map(str, _MIN_SQLITE))} or newer: use another Python, or store.url memory://"
        )
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # First a look: a file that is no database must not be written to.
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigError(
                f"{path} cannot have a write-ahead log (journal_mode is {mode}): put it on a "
                "local disk, by store.url"
            )
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_PAGES * 4096 * 2}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Return a connection for reading; texts come as bytes. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    connection.execute("PRAGMA query_only = ON")
    return connection


def escape(text: str) -> str:
    """Return the text without NUL, other than any other text's."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1A").replace("\0", "\1B")
    return text


def room_target(room: str) -> str:
    """Return what stands for a room where else the escaped id of a player does."""
    return "\1R" + escape(room)


def unescape(text: str) -> str:
    """Undo `escape`."""
    if "\1" in text:
        return text.replace("\1B", "\0").replace("\1A", "\1")
    return text


_REASONS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full: make room on it",
    sqlite3.SQLITE_IOERR: "reading or writing failed: is the disk full or broken?",
    sqlite3.SQLITE_BUSY: "another program has locked the file: end it",
    sqlite3.SQLITE_LOCKED: "another program has locked the file: end it",
    sqlite3.SQLITE_READONLY: "the file may not be written: give it to the gateway's user",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: look at its permissions and its folder's",
    sqlite3.SQLITE_PERM: "the file may not be opened: give it to the gateway's user",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop the gateway, then restore a backup or move "
    "the file away to begin with an empty one",
    sqlite3.SQLITE_NOTADB: "the file is no database, or is damaged: stop the gateway, then "
    "restore a backup or move the file away to begin with an empty one",
}


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of an error, None if it has none."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_damage(error: BaseException) -> bool:
    """Tell whether the error says that the file itself is bad."""
    return primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_fault(error: BaseException) -> bool:
    """Tell whether the error is of the file or its disk, rather than of what was asked."""
    return is_damage(error) or primary_code(error) in {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
    }


def explain(error: BaseException) -> str:
    """Return what is wrong and how to fix it, for the log."""
    reason = _REASONS.get(primary_code(error) or 0)
    return f"{error}: {reason}" if reason is not None else str(error)
