"""Messages that have arrived and are not handled yet: bounded, in order, each once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.client.errors import ClientError
from gateway.client.memory import Memory
from gateway.client.payloads import Message


class Inbox:
    """Waits for one consumer. What does not fit stays in the gateway's mailbox.

    Once it is full it takes nothing until it is half empty: then it calls `fetch`, which has to
    connect anew, and the gateway sends everything after the last message that was taken. The
    connection stays usable meanwhile, so a consumer may wait for receipts in between.
    """

    def __init__(self, limit: int, memory: Memory, fetch: Callable[[], None]) -> None:
        if limit < 1:
            raise ValueError("inbox must be at least 1")
        self._limit = limit
        self._memory = memory
        self._fetch = fetch
        self._waiting: deque[tuple[Message, int]] = deque()
        self._in_hand: tuple[Message, int] | None = None
        self._overflowed = False
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: ClientError | None = None

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    @property
    def overflowed(self) -> bool:
        """Whether messages that came were left to the gateway."""
        return self._overflowed

    def start(self) -> None:
        """A session begins: what was left to the gateway comes again."""
        self._overflowed = False

    def put(self, message: Message) -> None:
        """Take a message that arrived, if there is room."""
        if self._overflowed or len(self._waiting) >= self._limit:
            self._overflowed = self._overflowed or message.id is not None
            return
        if message.id is not None:
            self._memory.received(message.id)
        self._waiting.append((message, self._memory.era))
        self._arrived.set()

    async def get(self) -> Message | None:
        """Return the next message; it is in hand until `settle`. None when the client is closed.

        Raises the ClientError that ended the client. What has arrived comes first.
        """
        while not self._waiting:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            self._arrived.clear()
            await self._arrived.wait()
        self._in_hand = self._waiting.popleft()
        if self._overflowed and len(self._waiting) <= self._limit // 2:
            self._fetch()
        return self._in_hand[0]

    def settle(self) -> None:
        """Count the message in hand, if there is one, as handled."""
        held, self._in_hand = self._in_hand, None
        if held is not None and held[0].id is not None:
            self._memory.handled(held[0].id, held[1])

    def put_back(self) -> None:
        """Let the message in hand wait again, as the next one."""
        held, self._in_hand = self._in_hand, None
        if held is not None:
            self._waiting.appendleft(held)
            self._arrived.set()

    def end(self, error: ClientError | None) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._error = error
        self._arrived.set()
