"""The Engine.IO session, read as transcripts: what happened, and what is to be done."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.engineio import (
    AdoptProbe,
    AnswerPoll,
    Channel,
    Closed,
    CloseWebSocket,
    Command,
    Data,
    Deliver,
    EngineSession,
    PongReceived,
    RequestError,
    SendFrame,
    State,
    bad_method,
    bad_request,
    encode_payload,
    forbidden,
    unknown_session,
    unknown_transport,
    unsupported_version,
)

UNKNOWN_SESSION = (400, 1)
BAD_REQUEST = (400, 3)


def polling() -> EngineSession:
    return EngineSession("sid", "polling")


def websocket() -> EngineSession:
    return EngineSession("sid", "websocket")


def probing() -> EngineSession:
    """A polling session whose websocket has been probed and answered."""
    session = polling()
    session.probe_opened()
    session.frame_received("2probe", Channel.PROBE)
    assert session.take_commands() == [SendFrame("3probe", Channel.PROBE)]
    return session


def refusal(call: Callable[[], None]) -> tuple[int, int]:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value.status, caught.value.code


# Payloads


def test_a_payload_joins_packets_with_binary_ones_in_base64() -> None:
    assert encode_payload(["4a", b"\x01\x02", "2"]) == "4a\x1ebAQI=\x1e2"


@given(packets=st.lists(st.text(st.characters(exclude_characters="\x1e")) | st.binary()))
@settings(deadline=None)
def test_messages_survive_the_way_to_the_server(packets: list[Data]) -> None:
    session = polling()
    sent = ["4" + packet if isinstance(packet, str) else packet for packet in packets]
    if sent:
        session.payload_posted(encode_payload(sent))
    assert session.take_commands() == [Deliver(packet) for packet in packets]


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (unknown_transport(), 400, 0, "Transport unknown"),
        (unknown_session(), 400, 1, "Session ID unknown"),
        (bad_method(), 400, 2, "Bad handshake method"),
        (bad_request(), 400, 3, "Bad request"),
        (forbidden("no"), 403, 4, "no"),
        (unsupported_version(), 400, 5, "Unsupported protocol version"),
    ],
)
def test_errors_have_the_codes_of_nodes_server(
    error: RequestError, status: int, code: int, message: str
) -> None:
    assert (error.status, error.code, error.message) == (status, code, message)


# Polling


def test_a_poll_waits_for_a_message() -> None:
    session = polling()
    session.poll_requested()
    assert session.take_commands() == []
    session.send("hello")
    assert session.take_commands() == [AnswerPoll("4hello")]


def test_messages_wait_for_a_poll() -> None:
    session = polling()
    session.send("a")
    session.send(b"\x01\x02")
    session.ping()
    assert session.take_commands() == []
    assert session.outbox_bytes == 2 + 2 + 1
    session.poll_requested()
    assert session.take_commands() == [AnswerPoll("4a\x1ebAQI=\x1e2")]
    assert session.outbox_bytes == 0


def test_a_poll_is_answered_once() -> None:
    session = polling()
    session.poll_requested()
    session.send("a")
    session.send("b")
    assert session.take_commands() == [AnswerPoll("4a")]
    session.poll_requested()
    assert session.take_commands() == [AnswerPoll("4b")]


def test_a_poll_that_is_released_is_answered_with_nothing_and_the_next_one_waits() -> None:
    session = polling()
    session.poll_released()
    assert session.take_commands() == []
    session.poll_requested()
    session.poll_released()
    assert session.take_commands() == [AnswerPoll("6")]
    session.poll_requested()
    assert session.take_commands() == []
    assert session.open


def test_a_second_poll_at_a_time_ends_the_session() -> None:
    session = polling()
    session.poll_requested()
    assert refusal(session.poll_requested) == BAD_REQUEST
    assert session.take_commands() == [AnswerPoll("1"), Closed("overlapping polls")]
    assert refusal(session.poll_requested) == UNKNOWN_SESSION


def test_a_post_delivers_its_packets_in_order() -> None:
    session = polling()
    session.payload_posted("4a\x1ebAQI=\x1e3\x1e4")
    assert session.take_commands() == [
        Deliver("a"),
        Deliver(b"\x01\x02"),
        PongReceived(),
        Deliver(""),
    ]


@pytest.mark.parametrize(
    "body",
    ["", "x", "0", "2", "5", "6", "7", "3probe", "1x", "\x1e", "b!", "bAQ", "b\u00e9", "4a\x1e"],
)
def test_a_malformed_post_ends_the_session(body: str) -> None:
    session = polling()
    session.poll_requested()
    assert refusal(lambda: session.payload_posted(body)) == BAD_REQUEST
    commands = [command for command in session.take_commands() if command != Deliver("a")]
    assert commands == [AnswerPoll("1"), Closed("parse error")]


def test_a_client_that_leaves_its_poll_ends_the_session() -> None:
    session = polling()
    session.poll_requested()
    session.poll_aborted()
    assert session.take_commands() == [Closed("transport close")]
    session.poll_aborted()
    assert session.take_commands() == []


def test_leaving_a_poll_that_was_answered_means_nothing() -> None:
    session = polling()
    session.poll_requested()
    session.send("a")
    session.poll_aborted()
    assert session.open


def test_a_close_packet_answers_the_poll_and_ends_the_session() -> None:
    session = polling()
    session.poll_requested()
    session.payload_posted("4bye\x1e1\x1e4ignored")
    assert session.take_commands() == [
        Deliver("bye"),
        AnswerPoll("6"),
        Closed("transport close"),
    ]


def test_closing_while_a_poll_is_pending_answers_it() -> None:
    session = polling()
    session.poll_requested()
    session.close("forced close")
    assert session.take_commands() == [Closed("forced close"), AnswerPoll("1")]
    assert session.state is State.CLOSED


def test_closing_between_polls_lets_the_client_fetch_what_it_has_not_got() -> None:
    session = polling()
    session.send("last")
    session.close("forced close")
    assert session.take_commands() == [Closed("forced close")]
    assert session.state is State.CLOSING
    session.send("too late")
    session.poll_requested()
    assert session.take_commands() == [AnswerPoll("4last")]
    session.poll_requested()
    assert session.take_commands() == [AnswerPoll("1")]
    assert refusal(session.poll_requested) == UNKNOWN_SESSION


def test_a_closing_session_takes_nothing_any_more() -> None:
    session = polling()
    session.close("forced close")
    session.take_commands()
    assert refusal(lambda: session.payload_posted("4a")) == UNKNOWN_SESSION
    assert refusal(session.probe_opened) == UNKNOWN_SESSION
    session.ping()
    session.close("again")
    assert session.take_commands() == []


def test_an_abort_tells_the_application_once() -> None:
    session = polling()
    session.close("forced close")
    session.abort("ping timeout")
    session.abort("ping timeout")
    assert session.take_commands() == [Closed("forced close")]


def test_an_abort_answers_the_pending_poll() -> None:
    session = polling()
    session.poll_requested()
    session.abort("ping timeout")
    assert session.take_commands() == [AnswerPoll("1"), Closed("ping timeout")]


# Websocket


def test_a_websocket_carries_messages_both_ways() -> None:
    session = websocket()
    session.send("a")
    session.send(b"\x01")
    session.ping()
    session.frame_received("4b")
    session.frame_received(b"\x02")
    session.frame_received("3")
    assert session.take_commands() == [
        SendFrame("4a"),
        SendFrame(b"\x01"),
        SendFrame("2"),
        Deliver("b"),
        Deliver(b"\x02"),
        PongReceived(),
    ]
    assert session.outbox_bytes == 0


@pytest.mark.parametrize("frame", ["", "x", "0", "2", "2probe", "3probe", "5", "6", "7"])
def test_a_malformed_frame_ends_the_session(frame: str) -> None:
    session = websocket()
    session.frame_received(frame)
    assert session.take_commands() == [CloseWebSocket(), Closed("parse error")]


def test_closing_a_websocket_says_so_first() -> None:
    session = websocket()
    session.close("forced close")
    session.send("too late")
    session.frame_received("4too late")
    session.close("again")
    assert session.take_commands() == [
        SendFrame("1"),
        CloseWebSocket(),
        Closed("forced close"),
    ]


def test_a_close_packet_or_a_lost_websocket_ends_the_session() -> None:
    for session in (websocket(), websocket()):
        session.frame_received("1")
        session.websocket_closed(Channel.MAIN)
        assert session.take_commands() == [CloseWebSocket(), Closed("transport close")]


def test_a_websocket_session_takes_no_polls_posts_or_probes() -> None:
    session = websocket()
    assert refusal(session.poll_requested) == UNKNOWN_SESSION
    assert refusal(lambda: session.payload_posted("4a")) == UNKNOWN_SESSION
    assert refusal(session.probe_opened) == UNKNOWN_SESSION
    assert session.open
    assert session.take_commands() == []


# Upgrade


def test_a_poll_takes_sixteen_packets_and_leaves_the_rest_to_the_next() -> None:
    session = polling()
    for number in range(40):
        session.send(str(number))
    sizes = []
    numbers = []
    while session.outbox_bytes:
        session.poll_requested()
        (command,) = session.take_commands()
        assert isinstance(command, AnswerPoll)
        packets = command.payload.split("\x1e")
        sizes.append(len(packets))
        numbers += [int(packet[1:]) for packet in packets]
    assert sizes == [16, 16, 8]
    assert numbers == list(range(40))


def test_a_session_that_closes_is_polled_empty_first() -> None:
    session = polling()
    for number in range(20):
        session.send(str(number))
    session.close("bye")
    answers = []
    while session.state is not State.CLOSED:
        session.poll_requested()
        answers += [
            each.payload for each in session.take_commands() if isinstance(each, AnswerPoll)
        ]
    packets = "\x1e".join(answers).split("\x1e")
    assert packets == [*(f"4{number}" for number in range(20)), "1"]


def test_an_upgrade_ends_the_pending_poll_and_moves_the_outbox() -> None:
    session = polling()
    session.poll_requested()
    session.probe_opened()
    session.frame_received("2probe", Channel.PROBE)
    assert session.take_commands() == [SendFrame("3probe", Channel.PROBE), AnswerPoll("6")]
    session.send("a")
    session.send(b"\x01")
    session.frame_received("5", Channel.PROBE)
    session.send("b")
    assert session.take_commands() == [
        AdoptProbe(("4a", b"\x01")),
        SendFrame("4b"),
    ]
    assert session.transport == "websocket"
    assert session.outbox_bytes == 0
    assert refusal(session.poll_requested) == UNKNOWN_SESSION


def test_a_poll_after_the_probe_ends_at_once() -> None:
    session = probing()
    session.poll_requested()
    assert session.take_commands() == [AnswerPoll("6")]
    session.send("a")
    session.poll_requested()
    assert session.take_commands() == [AnswerPoll("4a")]


def test_a_websocket_that_has_not_probed_leaves_polls_alone() -> None:
    session = polling()
    session.probe_opened()
    session.poll_requested()
    assert session.take_commands() == []
    session.send("a")
    assert session.take_commands() == [AnswerPoll("4a")]


def test_a_second_probe_is_refused_while_the_first_is_there() -> None:
    session = probing()
    assert refusal(session.probe_opened) == BAD_REQUEST
    session.websocket_closed(Channel.PROBE)
    session.probe_opened()
    assert session.open


@pytest.mark.parametrize("frame", ["", "5", "2", "3probe", "4a", "2probe!", b"2probe"])
def test_a_probe_that_does_not_begin_with_its_ping_is_closed(frame: Data) -> None:
    session = polling()
    session.probe_opened()
    session.frame_received(frame, Channel.PROBE)
    assert session.take_commands() == [CloseWebSocket(Channel.PROBE)]
    assert session.open
    session.frame_received("5", Channel.PROBE)
    assert session.take_commands() == []
    assert session.transport == "polling"


@pytest.mark.parametrize("frame", ["2probe", "4a", "1", "", b"5"])
def test_a_probe_that_does_not_upgrade_next_is_closed(frame: Data) -> None:
    session = probing()
    session.frame_received(frame, Channel.PROBE)
    assert session.take_commands() == [CloseWebSocket(Channel.PROBE)]
    assert session.transport == "polling"


def test_losing_the_probe_leaves_the_session_on_polling() -> None:
    session = probing()
    session.websocket_closed(Channel.PROBE)
    session.poll_requested()
    session.send("a")
    assert session.take_commands() == [AnswerPoll("4a")]


def test_the_end_of_the_session_closes_the_probe() -> None:
    session = probing()
    session.abort("ping timeout")
    assert session.take_commands() == [CloseWebSocket(Channel.PROBE), Closed("ping timeout")]
    session = probing()
    session.close("forced close")
    assert session.take_commands() == [CloseWebSocket(Channel.PROBE), Closed("forced close")]


# Any order of events


class AnySession(RuleBasedStateMachine):
    """A session under everything that HTTP, websockets and the application can do to it.

    Checks every command against what the outside world can carry out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session = polling()
        self.polls = 0
        self.main = False
        self.probe = False
        self.closed = 0
        self.sent: list[Data] = []
        self.received: list[Data] = []

    def settle(self, commands: list[Command]) -> None:
        for command in commands:
            if self.closed:
                assert isinstance(command, AnswerPoll | CloseWebSocket)
            match command:
                case AnswerPoll(payload):
                    assert self.polls == 1
                    self.polls = 0
                    for packet in payload.split("\x1e"):
                        if packet[:1] == "b":
                            self.received.append(base64.b64decode(packet[1:]))
                        else:
                            self.take(packet)
                case SendFrame(data, Channel.MAIN):
                    assert self.main
                    self.take(data)
                case SendFrame(data, Channel.PROBE):
                    assert self.probe
                    assert data == "3probe"
                case AdoptProbe(packets):
                    assert self.probe
                    assert not self.main
                    self.probe, self.main = False, True
                    for packet in packets:
                        self.take(packet)
                case CloseWebSocket(Channel.MAIN):
                    self.main = False
                case CloseWebSocket(Channel.PROBE):
                    assert self.probe
                    self.probe = False
                case Closed():
                    self.closed += 1

    def take(self, packet: Data) -> None:
        if isinstance(packet, bytes):
            self.received.append(packet)
        elif packet[:1] == "4":
            self.received.append(packet[1:])
        else:
            assert packet in {"1", "2", "6"}

    def attempt(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except RequestError:
            return False
        finally:
            self.settle(self.session.take_commands())
        return True

    @rule(data=st.text("abc", max_size=3) | st.binary(max_size=3))
    def send(self, data: Data) -> None:
        if self.session.open:
            self.sent.append(data)
        self.attempt(lambda: self.session.send(data))

    @rule()
    def ping(self) -> None:
        self.attempt(self.session.ping)

    @rule()
    def poll(self) -> None:
        # The command that answers this very poll comes before the call is over.
        polls, self.polls = self.polls, 1
        if not self.attempt(self.session.poll_requested) and not polls:
            self.polls = 0

    @precondition(lambda self: self.polls)
    @rule()
    def abort_poll(self) -> None:
        self.polls = 0
        self.attempt(self.session.poll_aborted)

    @rule(
        packets=st.lists(
            st.sampled_from(["4a", "4", "3", "bAQI=", "2", "1", "x", "", "b!", "6", "5"]),
            min_size=1,
            max_size=3,
        )
    )
    def post(self, packets: list[str]) -> None:
        self.attempt(lambda: self.session.payload_posted("\x1e".join(packets)))

    @rule()
    def open_probe(self) -> None:
        probe = self.probe
        assert self.attempt(self.session.probe_opened) <= (not probe)
        self.probe = probe or (self.session.open and self.session.transport == "polling")

    @precondition(lambda self: self.probe)
    @rule(frame=st.sampled_from(["2probe", "2probe", "2probe", "5", "5", "5", "4a", "", b"x"]))
    def probe_frame(self, frame: Data) -> None:
        self.attempt(lambda: self.session.frame_received(frame, Channel.PROBE))

    @precondition(lambda self: self.main)
    @rule(frame=st.sampled_from(["4a", "3", b"x", "2", "1", "", "x"]))
    def frame(self, frame: Data) -> None:
        self.attempt(lambda: self.session.frame_received(frame))

    @precondition(lambda self: self.probe)
    @rule()
    def lose_probe(self) -> None:
        self.probe = False
        self.attempt(lambda: self.session.websocket_closed(Channel.PROBE))

    @precondition(lambda self: self.main)
    @rule()
    def lose_websocket(self) -> None:
        self.attempt(lambda: self.session.websocket_closed(Channel.MAIN))

    @precondition(lambda self: len(self.sent) > 3)
    @rule()
    def close(self) -> None:
        self.attempt(lambda: self.session.close("forced close"))

    @precondition(lambda self: len(self.sent) > 3)
    @rule()
    def abort(self) -> None:
        self.attempt(lambda: self.session.abort("ping timeout"))

    @invariant()
    def messages_arrive_once_in_order(self) -> None:
        assert self.received == self.sent[: len(self.received)]

    @invariant()
    def the_application_is_told_of_the_end_once(self) -> None:
        assert self.closed == (not self.session.open)

    @invariant()
    def what_waits_is_counted(self) -> None:
        waiting = self.session.outbox_bytes
        if self.main or self.polls:
            assert waiting == 0
        if self.main:
            assert len(self.received) == len(self.sent)

    def teardown(self) -> None:
        if self.session.state is State.CLOSED:
            assert (self.polls, self.main, self.probe) == (0, False, False)
            return
        # A client that goes on polling gets everything, and after a close the end.
        while self.session.transport == "polling" and self.received != self.sent:
            self.poll()
        assert self.received == self.sent
        if self.session.state is State.CLOSING:
            self.poll()
            assert self.session.state is State.CLOSED


TestAnySession = AnySession.TestCase
TestAnySession.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


@given(texts=st.lists(st.text() | st.binary(), max_size=5))
@settings(deadline=None)
def test_any_text_is_taken_or_ends_the_session(texts: list[Data]) -> None:
    for text in texts:
        by_frame = websocket()
        by_frame.frame_received(text)
        assert by_frame.open == (not any(isinstance(c, Closed) for c in by_frame.take_commands()))
        by_probe = polling()
        by_probe.probe_opened()
        by_probe.frame_received(text, Channel.PROBE)
        assert by_probe.open
        if isinstance(text, str):
            by_post = polling()
            try:
                by_post.payload_posted(text)
            except RequestError:
                assert not by_post.open
