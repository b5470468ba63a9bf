"""Turns of the sqlite store's two threads.

What the writer knows is the file's state only between its transactions. The reader takes its
view of both then: of the file as a snapshot, so it need not keep the turn while it reads.
"""

from __future__ import annotations

import threading


class Turns:
    """A lock that goes to who waits for it: who releases it does not get it again first."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
