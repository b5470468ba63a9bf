"""What a client knows of itself: its token, and how far it has come in its mailbox.

Received and handled are two things. Over a reconnect the last message *received* is presented,
for the rest still waits here. What is kept for the next process is the last one *handled*.
"""

from __future__ import annotations

import msgspec

from gateway.client.errors import StorageMismatch
from gateway.client.payloads import Gap, Greeting
from gateway.client.storage import Record, Storage


class Memory:
    """The record of one client. `gateway` is where the record's token may be shown."""

    def __init__(self, storage: Storage, gateway: str, account: str) -> None:
        self._storage = storage
        self._gateway = gateway
        self._account = account
        self._record: Record | None = None
        self._received: str | None = None
        self._open = False
        #: Counts streams of messages: ids of an older one mean nothing any more.
        self.era = 0

    def open(self) -> None:
        """Read what is kept.

        Raises StorageInUse, StorageMismatch for a record of another gateway, and what the
        storage raises. A record of other credentials is forgotten.
        """
        record = self._storage.open()
        self._open = True
        if record is None:
            return
        if record.gateway != self._gateway:
            self.close()
            raise StorageMismatch(
                "storage_mismatch",
                f"the storage has a session of {record.gateway}, not of {self._gateway}: "
                "use another one, or clear it",
            )
        if self._account and record.account and record.account != self._account:
            self._storage.clear()
            return
        self._record = record

    def close(self) -> None:
        """Let the storage go; it may be another client's from now on."""
        if self._open:
            self._open = False
            self._storage.close()

    @property
    def token(self) -> str | None:
        """The resume token."""
        return None if self._record is None else self._record.token

    @property
    def offset(self) -> str | None:
        """The id after which the gateway is to go on."""
        if self._received is not None or self._record is None:
            return self._received
        return self._record.offset

    def accept(self, greeting: Greeting) -> Gap | None:
        """Keep a session that was granted; return what was lost."""
        before, gap = self._record, greeting.gap
        offset, waiting = (None, False) if before is None else (before.offset, before.waiting)
        if before is None or greeting.outcome == "store_reset":
            # An offset of before is one that the gateway does not know, and never will.
            self.era += 1
            self._received = offset = None
            waiting = False
        elif waiting and self._received is None:
            # An earlier process had messages and handled none. The gateway goes on behind what
            # it knows to have arrived there.
            gap = gap or Gap(None, None)
            waiting = False
        self._save(
            Record(self._gateway, greeting.token, self._account, offset, waiting), durable=True
        )
        return gap

    def received(self, message_id: str) -> None:
        """Count a message as received: it waits here to be handled."""
        self._received = message_id
        record = self._record
        if record is not None and record.offset is None and not record.waiting:
            self._save(msgspec.structs.replace(record, waiting=True), durable=False)

    def handled(self, message_id: str, era: int) -> None:
        """Count a message as handled: it does not come again."""
        if self._record is not None and era == self.era:
            self._save(
                msgspec.structs.replace(self._record, offset=message_id, waiting=False),
                durable=False,
            )

    def forget(self) -> None:
        """The token is worth nothing any more."""
        self._record = self._received = None
        self.era += 1
        if self._open:
            self._storage.clear()

    def _save(self, record: Record, *, durable: bool) -> None:
        self._record = record
        if self._open:
            self._storage.save(record, durable=durable)
