"""A player of the fleet: does what a stock Socket.IO client with state recovery does.

It logs what it sent, what was acked and what arrived. Whatever was not acked it sends again,
under the same idempotency key and before anything new, as the stock client's `retries` does.
"""

from __future__ import annotations

import asyncio
import enum
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.checker import Arrived, Greeted, Log, Sent, Stream
from tests.faults.link import Link, LinkLost

#: How long an ack may take before the message is sent again. Seconds.
ACK_SECONDS: Final = 1.5
#: The longest pause before a message that was refused is sent again. Seconds.
_MAX_WAIT: Final = 0.5
_MAX_PAD: Final = 400
#: Refusals that pass. A guest is unknown after a restart that forgot everything, until it is back.
_PASSING: Final = frozenset({"unavailable", "rate_limited", "mailbox_full", "unknown_target"})


class Recovery(enum.Enum):
    """What a player presents when it comes back."""

    STATE = "pid, offset and token"
    RELOAD = "token and offset"
    BARE = "token"


class Refused(Exception):
    """The CONNECT was refused; `wait` is in seconds."""

    def __init__(self, code: str, wait: float) -> None:
        super().__init__(code)
        self.code = code
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a player writes: bursts per second, messages in one, how many may be unacked.

    More than one unacked for a target keeps their order over lost links, but not over refusals: one
    message may be refused and the one behind it be accepted.
    """

    per_second: float = 40.0
    burst: int = 4
    unacked: int = 8
    unacked_per_target: int = 8


@dataclass(frozen=True, slots=True)
class Patience:
    """How a player comes back; durations in seconds.

    `connect` is how long it may take up to the event `session`. Before the first try there is a
    pause of `pause`, doubled with each that fails up to `max_pause`, more or less by `jitter` of
    it; refusals may ask for up to `max_pause`. With `heeds_goaway` it leaves when it is asked to,
    and is back when it is asked to be.
    """

    connect: float
    pause: float
    max_pause: float
    jitter: float
    heeds_goaway: bool = False

    def wait(self, failures: int, chance: random.Random) -> float:
        """Return the pause after so many tries that failed one after the other."""
        pause = min(self.max_pause, self.pause * 2.0 ** min(failures, 16))
        return pause * (1 + self.jitter * chance.uniform(-1, 1))


#: For many faults in a short time.
HASTY: Final = Patience(connect=2.0, pause=0.18, max_pause=0.5, jitter=0.7)
#: The stock client's defaults (socket.io-client 4: `timeout`, `reconnectionDelay`,
#: `reconnectionDelayMax`, `randomizationFactor`). It does not know `goaway`.
STOCK: Final = Patience(connect=20.0, pause=1.0, max_pause=5.0, jitter=0.5)


@dataclass(slots=True)
class _Pending:
    """A message that was not acked yet; `sent_at` on the monotonic clock."""

    payload: dict[str, Any]
    sent_at: float = 0.0


class Player:
    """One player. `address` says where the gateway is, at each connect anew."""

    def __init__(
        self,
        name: str,
        recovery: Recovery,
        address: Callable[[], tuple[str, int]],
        log: Log,
        pace: Pace,
        chance: random.Random,
        patience: Patience = HASTY,
    ) -> None:
        self.name = name
        self.recovery = recovery
        self.true_id = ""
        self.online = False
        self.connects = 0
        self.longest_outage = 0.0
        #: Codes of refused connects and messages.
        self.refusals: Counter[str] = Counter()
        #: `ts` of the newest message, minus this machine's clock. Seconds.
        self.clock_error = 0.0
        self._address = address
        self._log = log
        self._pace = pace
        self._patience = patience
        self._chance = chance
        self._auth: dict[str, Any] = {"guest": True, "name": name}
        self._pid = self._offset = self._token = ""
        self._stream = Stream(at_least_once=recovery is Recovery.BARE)
        self._link: Link | None = None
        self._awake = asyncio.Event()
        self._awake.set()
        self._heard_at = 0.0
        self._ping_seconds = patience.connect
        #: When the gateway wants us back, in seconds from then.
        self._asked: float | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._pending: dict[str, _Pending] = {}
        self._acks: dict[int, str] = {}
        self._next_ack = 0
        self._seqs: Counter[str] = Counter()

    @property
    def unacked(self) -> int:
        """Messages that were sent and not acked."""
        return len(self._pending)

    # Connecting

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        failures = 0
        while True:
            await self._awake.wait()
            connects, wanted = self.connects, 0.0
            try:
                async with asyncio.timeout(self._patience.connect):
                    link = await Link.open(*self._address())
                await self._use(link)
            except (LinkLost, TimeoutError):
                pass
            except Refused as refused:
                self.refusals[refused.code] += 1
                wanted = refused.wait
            failures = 0 if self.connects > connects else failures + 1
            pause = max(self._patience.wait(failures, self._chance), wanted)
            asked, self._asked = self._asked, None
            await asyncio.sleep(pause if asked is None else asked)

    def nap(self) -> None:
        """Go away until `wake`; what is written to it meanwhile has to wait."""
        self._awake.clear()
        if self._link is not None:
            self._link.abort()

    def wake(self) -> None:
        """Come back; the nap does not count as an outage."""
        if not self._awake.is_set():
            self._heard_at = time.monotonic()
            self._awake.set()

    async def _use(self, link: Link) -> None:
        self._link = link
        self._expect(self._patience.connect)
        try:
            async for packet in link.packets():
                now = time.monotonic()
                if self.online:
                    self._heard_at = now
                self._on_packet(link, packet, now)
        finally:
            self._link, self.online = None, False
            self._acks.clear()
            self._expect(None)
            link.abort()

    def _expect(self, seconds: float | None) -> None:
        """Give the link up unless this is called again before so many seconds have passed."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None and self._link is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(seconds, self._link.abort)

    def _on_packet(self, link: Link, packet: str, now: float) -> None:
        kind = packet[:2]
        if kind == "42":
            self._on_event(json.loads(packet[2:]), now)
        elif kind == "43":
            start = packet.index("[")
            self._on_ack(int(packet[2:start]), json.loads(packet[start:])[0])
        elif packet == "2":
            link.send("3")
            # Until the greeting the connect's own deadline holds.
            if self.online:
                self._expect(self._ping_seconds)
        elif kind == "40":
            self._pid = json.loads(packet[2:])["pid"]
        elif kind == "44":
            raise self._refused(json.loads(packet[2:]))
        elif packet[:1] == "0":
            handshake = json.loads(packet[1:])
            self._ping_seconds = (handshake["pingInterval"] + handshake["pingTimeout"]) / 1000
            link.send("40" + json.dumps(self._presented()))
        elif kind == "41":
            # A stock client would stay away.
            self._log.complaints.append(f"{self.name} was disconnected for good")
            raise LinkLost("disconnected")
        elif packet == "1":
            raise LinkLost("closed by the gateway")

    def _presented(self) -> dict[str, Any]:
        """Return the payload of CONNECT."""
        if not self._token:
            return self._auth
        auth = {"token": self._token}
        if self.recovery is not Recovery.BARE and self._offset:
            auth["offset"] = self._offset
        if self.recovery is Recovery.STATE:
            auth["pid"] = self._pid
        return auth

    def _refused(self, error: dict[str, Any]) -> Refused:
        data = error["data"]
        if not data["reconnect"]:
            self._log.complaints.append(f"{self.name} was refused for good: {error}")
        return Refused(data["code"], min(self._patience.max_pause, data["retry_after"] or 0.0))

    # Receiving

    def _on_event(self, event: Sequence[Any], now: float) -> None:
        if event[0] == "session":
            self._on_session(event[1], now)
        elif event[0] == "message":
            message = event[1]
            data = message["data"]
            self._stream.events.append(
                Arrived(message["id"], message["from"], data["key"], data["seq"])
            )
            self._log.seen.add(data["key"])
            self.clock_error = message["ts"] - time.time()
        elif event[0] == "goaway" and self._patience.heeds_goaway:
            self._asked = event[1]["reconnect_in"]
            if self._link is not None:
                self._link.abort()
        if self._pid and isinstance(event[-1], str) and len(event) > 1:
            self._offset = event[-1]

    def _on_session(self, session: dict[str, Any], now: float) -> None:
        if not self.true_id:
            self.true_id = session["true_id"]
            self._log.streams[self.true_id] = self._stream
        elif session["true_id"] != self.true_id:
            self._log.complaints.append(f"{self.name} has become {session['true_id']}")
        self._token = session["token"]
        self._stream.events.append(Greeted(session["outcome"], session["gap"] is not None))
        if self._heard_at:
            self.longest_outage = max(self.longest_outage, now - self._heard_at)
        self._heard_at = now
        self.online = True
        self.connects += 1
        self._expect(self._ping_seconds)
        self._resend()

    # Sending

    async def write(self, others: Sequence[Player], wanted: Callable[[], bool]) -> None:
        """Write to random others while `wanted` says so, and repeat what no ack came for."""
        while True:
            await asyncio.sleep(self._chance.expovariate(self._pace.per_second))
            oldest = next(iter(self._pending.values()), None)
            if oldest is not None and time.monotonic() - oldest.sent_at > ACK_SECONDS:
                self._resend()
            # While some wait to be sent again nothing new may overtake them.
            if not self.online or not wanted() or self._retry is not None:
                continue
            for _ in range(self._chance.randint(1, self._pace.burst)):
                self._write_to(self._chance.choice(others).true_id)

    def _write_to(self, target: str) -> None:
        waiting = [pending.payload["target_id"] for pending in self._pending.values()]
        if (
            len(waiting) >= self._pace.unacked
            or waiting.count(target) >= self._pace.unacked_per_target
        ):
            return
        self._seqs[target] += 1
        seq = self._seqs[target]
        key = f"{self.name}-{self._seqs.total()}"
        pad = "x" * self._chance.randrange(_MAX_PAD)
        self._log.sent[key] = Sent(self.true_id, target, seq)
        data = {"key": key, "seq": seq, "pad": pad}
        self._pending[key] = _Pending({"target_id": target, "data": data, "id": key})
        self._send(key)

    def _send(self, key: str) -> None:
        assert self._link is not None
        pending = self._pending[key]
        pending.sent_at = time.monotonic()
        self._next_ack += 1
        self._acks[self._next_ack] = key
        self._link.send(f"42{self._next_ack}" + json.dumps(["message", pending.payload]))

    def _resend(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.online:
            for key in self._pending:
                self._send(key)

    def _on_ack(self, ack_id: int, receipt: dict[str, Any]) -> None:
        key = self._acks.pop(ack_id)
        if receipt["ok"]:
            self._pending.pop(key, None)
            known = self._log.acked.setdefault(key, receipt["id"])
            if known != receipt["id"]:
                self._log.complaints.append(f"{key} was acked as {known} and {receipt['id']}")
            return
        error = receipt["error"]
        self.refusals[error["code"]] += 1
        if error["code"] not in _PASSING:
            self._log.complaints.append(f"{key} was refused: {error}")
            self._pending.pop(key, None)
        elif self._retry is None:
            wait = min(_MAX_WAIT, error.get("retry_after") or _MAX_WAIT)
            self._retry = asyncio.get_running_loop().call_later(wait, self._resend)
