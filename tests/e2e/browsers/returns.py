"""How soon tabs were live again: a table at the end of the tests, for people to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

_WIDTH: Final = 16


class Returns:
    """Collects seconds from what ended a disturbance to the event `session` in the page."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, dict[tuple[str, str], float]] = defaultdict(dict)

    def note(self, browser: str, client: str, after: str, seconds: float) -> None:
        """Note one; of several of a kind the slowest counts."""
        row = self._seconds[after]
        row[browser, client] = max(seconds, row.get((browser, client), seconds))

    def lines(self) -> Iterator[str]:
        """Yield the table."""
        columns = sorted({column for row in self._seconds.values() for column in row})
        if columns:
            yield _line("after", (" ".join(column) for column in columns))
        for after, row in self._seconds.items():
            cells = (f"{row[column] * 1000:.0f}" if column in row else "" for column in columns)
            yield _line(after, cells)


def _line(title: str, cells: Iterator[str]) -> str:
    return "".join([title.ljust(_WIDTH), *(cell.rjust(_WIDTH + 1) for cell in cells)])
