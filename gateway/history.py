"""The last hour in numbers: a bounded ring of samples, for the operator's page."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.metrics import Metrics

#: Between two samples.
SAMPLE_SECONDS: Final = 5.0
#: Samples kept: those of an hour.
CAPACITY: Final = 720
#: Gauges of the metrics; one that is not there is 0.
_GAUGES: Final = (
    *("connections", "players", "sessions", "rooms", "mailbox_bytes"),
    *("webhooks_queued", "webhooks_lag_seconds"),
)
#: Counters, of which each second's part is kept: the value of the label, or None for all.
_RATES: Final[Mapping[str, tuple[str, str | None]]] = {
    "delivered": ("messages", "delivered"),
    "queued": ("messages", "queued"),
    "dropped": ("messages", "dropped"),
    "duplicate": ("messages", "duplicate"),
    "connects": ("resumes", None),
    "refused_connects": ("refused_connects", None),
    "refused_requests": ("refused_requests", None),
    "closed_connections": ("closed_connections", None),
}
_LAG: Final = "event_loop_lag_seconds"
COLUMNS: Final = (*_GAUGES, *_RATES, _LAG)
_DIGITS: Final = 4


class Samples(msgspec.Struct, frozen=True):
    """Samples in their order, one list for each column; counters are per second.

    `seq` is the number of the newest sample taken so far, `first` that of the first one here.
    `time` is in Unix seconds.
    """

    seq: int
    first: int
    seconds: float
    capacity: int
    time: list[float]
    columns: dict[str, list[float]]


class History:
    """Takes samples; with `capacity` of them, each takes the place of the oldest.

    `take_lag` returns the event loop's worst lag since its last call, in seconds; `clock` is in
    Unix seconds, `monotonic` in seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        take_lag: Callable[[], float],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        capacity: int = CAPACITY,
    ) -> None:
        self._metrics = metrics
        self._take_lag = take_lag
        self._clock = clock
        self._monotonic = monotonic
        self._capacity = capacity
        self._seq = 0
        self._times = array("d", bytes(8 * capacity))
        self._columns = {name: array("d", bytes(8 * capacity)) for name in COLUMNS}
        self._taken = monotonic()
        self._counts = self._count()

    def take(self) -> None:
        """Take a sample, of what was counted since the last one."""
        now = self._monotonic()
        elapsed = now - self._taken
        if elapsed <= 0:
            return
        gauges, counts = self._metrics.gauges(_GAUGES), self._count()
        place = self._seq % self._capacity
        self._times[place] = self._clock()
        for name in _GAUGES:
            self._columns[name][place] = gauges.get(name, 0.0)
        for name, count in counts.items():
            self._columns[name][place] = (count - self._counts[name]) / elapsed
        self._columns[_LAG][place] = self._take_lag()
        self._taken, self._counts = now, counts
        self._seq += 1

    async def sample(self) -> None:
        """Take one, for who awaits what is done again and again."""
        self.take()

    def _count(self) -> dict[str, int]:
        counts = self._metrics.counts()
        return {
            name: sum(counts[counter].values()) if value is None else counts[counter].get(value, 0)
            for name, (counter, value) in _RATES.items()
        }

    def since(self, seq: int) -> Samples:
        """Return the samples after the one with this number; all for one that was never taken."""
        oldest = max(0, self._seq - self._capacity)
        start = max(seq, oldest) if seq <= self._seq else oldest
        places = [number % self._capacity for number in range(start, self._seq)]
        return Samples(
            self._seq,
            start + 1,
            SAMPLE_SECONDS,
            self._capacity,
            [round(self._times[place], 3) for place in places],
            {
                name: [round(column[place], _DIGITS) for place in places]
                for name, column in self._columns.items()
            },
        )
