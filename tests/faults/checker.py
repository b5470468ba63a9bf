"""What the fleet has logged, and what is wrong with it. Pure: no IO, no clock.

Players are named by their true_id, messages by the idempotency key that their sender gave them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that a player wrote; `seq` counts from 1 for each sender and target."""

    sender: str
    target: str
    seq: int


@dataclass(frozen=True, slots=True)
class Greeted:
    """The event `session`: a new link, and what the gateway says of the player's stream."""

    outcome: str
    gap: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """The event `message`: `id` is its position in the mailbox, the rest as its sender wrote it."""

    id: str
    sender: str
    key: str
    seq: int


@dataclass(slots=True)
class Stream:
    """What one player received, in order.

    With `at_least_once` they present nothing but a token: after a reconnect messages may come
    again, under the same id.
    """

    at_least_once: bool = False
    events: list[Greeted | Arrived] = field(default_factory=list)


@dataclass(slots=True)
class Log:
    """A run: messages by key, the ids of those acked by key, and streams by true_id."""

    sent: dict[str, Sent] = field(default_factory=dict)
    acked: dict[str, str] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    #: Keys of what has arrived anywhere; only for who waits for the end, it is not judged.
    seen: set[str] = field(default_factory=set)
    #: What no gateway should have answered, in words.
    complaints: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Findings:
    """Each finding is a sentence. `arrived` counts messages, `repeats` those that came again.

    `told` are acked messages that are lost, and whose target was told that some are.
    """

    arrived: int = 0
    repeats: int = 0
    told: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    misordered: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost or self.doubled or self.misordered or self.unexpected)

    def __str__(self) -> str:
        parts = (self.lost, self.doubled, self.misordered, self.unexpected)
        return "\n".join(line for part in parts for line in part)


def check(log: Log, *, may_lose: bool = False) -> Findings:
    """Judge a run that has ended: whatever was acked must be in its target's stream by now.

    With `may_lose` the store may have lost the last that it had acknowledged, and the keys of
    it, if it said so: a player who was told of a gap or of another store may lack messages, and
    one who was told, or has nothing but a token, may get messages again.
    """
    findings = Findings(unexpected=list(log.complaints))
    arrivals: dict[str, str] = {}
    told, loose = set(), set()
    for player, stream in log.streams.items():
        reader = _Reader(log, player, stream, findings, arrivals, may_lose)
        reader.read()
        if may_lose and reader.told:
            told.add(player)
        if may_lose and reader.may_repeat:
            loose.add(player)
    findings.arrived = len(arrivals)
    for key, message in log.sent.items():
        if key not in log.acked:
            findings.unexpected.append(f"{key} was never acked")
        elif key not in arrivals and message.target in told:
            findings.told += 1
        elif key not in arrivals:
            findings.lost.append(f"{key} was acked as {log.acked[key]}, {message.target} lacks it")
        elif arrivals[key] != log.acked[key] and message.target not in loose:
            findings.unexpected.append(
                f"{key} arrived as {arrivals[key]}, was acked as {log.acked[key]}"
            )
    return findings


class _Reader:
    """Goes through one player's stream, once."""

    def __init__(
        self,
        log: Log,
        player: str,
        stream: Stream,
        findings: Findings,
        arrivals: dict[str, str],
        may_lose: bool,
    ) -> None:
        #: The player was told that messages are lost, or may be.
        self.told = False
        self._log = log
        self._may_lose = may_lose
        self._player = player
        self._stream = stream
        self._findings = findings
        self._arrivals = arrivals
        #: Ids that came on any link, and the ones that came on this link.
        self._ids: set[str] = set()
        self._here: set[str] = set()
        #: Newest sequence number by sender.
        self._seqs: dict[str, int] = {}
        self._epoch = ""
        #: Newest offset on any link, and on this link.
        self._offset = 0
        self._link_offset = 0
        self._gap = self._reset = False

    @property
    def may_repeat(self) -> bool:
        """What was lost, or was never acked, may come again when it is sent again."""
        return self.told or self._stream.at_least_once

    def read(self) -> None:
        for event in self._stream.events:
            if isinstance(event, Greeted):
                self._here.clear()
                self._link_offset = 0
                self._gap = self._gap or event.gap
                self._reset = self._reset or event.outcome == "store_reset"
                self.told = self.told or event.gap or self._reset
                # Of who says nothing, nobody knows that they had what was lost.
                unknown = event.outcome == "store_reset" or self._stream.at_least_once
                if self._may_lose and unknown:
                    # Offsets that were lost are given again, to other messages.
                    self._offset, self._gap = 0, True
                    self._seqs.clear()
                    # Nobody knows any more what the client has: all there is comes again.
                    self._ids.clear()
            elif event.id in self._ids:
                self._repeated(event)
            else:
                self._first(event)

    def _repeated(self, event: Arrived) -> None:
        said = f"{event.key} came to {self._player} again as {event.id}"
        if event.id in self._here or not self._stream.at_least_once:
            self._findings.doubled.append(said)
            return
        self._findings.repeats += 1
        self._here.add(event.id)
        offset = _parse(event.id)[1]
        if offset <= self._link_offset:
            self._findings.misordered.append(f"{said}, behind offset {self._link_offset}")
        self._link_offset = offset

    def _first(self, event: Arrived) -> None:
        self._ids.add(event.id)
        self._here.add(event.id)
        self._check_offset(event)
        sent = self._log.sent.get(event.key)
        if sent != Sent(event.sender, self._player, event.seq):
            self._findings.unexpected.append(f"{self._player} got {event}; sent was {sent}")
            return
        if event.key in self._arrivals and self._may_lose and self.may_repeat:
            self._findings.repeats += 1
        elif event.key in self._arrivals:
            self._findings.doubled.append(
                f"{event.key} came to {self._player} as {self._arrivals[event.key]} and {event.id}"
            )
            return
        self._arrivals.setdefault(event.key, event.id)
        newest = self._seqs.get(event.sender, 0)
        if event.seq <= newest:
            self._findings.misordered.append(
                f"{event.key} is number {event.seq} and came to {self._player} behind {newest}"
            )
        self._seqs[event.sender] = max(newest, event.seq)

    def _check_offset(self, event: Arrived) -> None:
        epoch, offset = _parse(event.id)
        if epoch != self._epoch:
            if self._epoch and not self._reset:
                self._findings.unexpected.append(f"{self._player}: an epoch began with {event.id}")
            self._epoch, self._offset, self._link_offset = epoch, 0, 0
        if offset <= max(self._offset, self._link_offset):
            self._findings.misordered.append(
                f"{self._player}: {event.id} came behind offset {self._offset}"
            )
        elif offset != self._offset + 1 and not self._gap:
            self._findings.unexpected.append(
                f"{self._player}: {event.id} follows offset {self._offset}, no gap was announced"
            )
        self._offset = max(self._offset, offset)
        self._link_offset = offset
        self._gap = self._reset = False


def _parse(message_id: str) -> tuple[str, int]:
    epoch, offset, _ = message_id.split(".")
    return epoch, int(offset)
