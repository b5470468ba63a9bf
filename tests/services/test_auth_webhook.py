"""Log-ins and joins that the game's backend decides: what is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.auth import Authentication, Identity
from gateway.auth.guest import GuestAuthenticator
from gateway.auth.webhook import AuthWebhookSettings, WebhookAuthenticator
from gateway.errors import ConnectRefused, RequestRefused
from gateway.inquiries import Inquiries, InquirySettings
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.posting import PostFailed, Response
from gateway.room_webhook import WebhookRooms
from tests.services.world import Clock, Gate, World, scenario, settled

ADDRESS = "192.0.2.1"
ACCOUNT = TrueId("u-account")


class Game:
    """A backend that answers `answer` with `status`, and what asks it."""

    def __init__(
        self,
        answer: object = None,
        *,
        section: str = "auth.webhook",
        question_bytes: int = 1024,
        attempts_per_minute: int = 0,
        reserved: tuple[str, ...] = ("p_", "jwt:"),
        name_bytes: int = 16,
    ) -> None:
        self.answer = answer
        self.status = 200
        self.questions: list[dict[str, Any]] = []
        self.gate: Gate | None = None
        self.metrics = Metrics()
        self.clock = Clock()
        self.inquiries = Inquiries(
            self.post,
            lambda: None,
            ["k" * 40],
            InquirySettings(section, 5.0, 100, 100),
            self.metrics,
            self.clock,
            self.clock,
            lambda: 1.0,
        )
        self.authenticator = WebhookAuthenticator(
            self.inquiries,
            AuthWebhookSettings(question_bytes, attempts_per_minute, reserved, name_bytes),
            self.is_account if reserved else None,
            self.metrics,
            self.clock,
        )

    async def post(self, body: bytes, headers: dict[str, str], seconds: float) -> Response:
        self.questions.append(json.loads(body))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return Response(self.status, body=json.dumps(self.answer).encode())

    async def is_account(self, true_id: TrueId) -> bool:
        return true_id == ACCOUNT

    async def log_in(self, address: str = ADDRESS, **auth: object) -> Identity:
        return await self.authenticator.authenticate(auth or {"ticket": "t"}, address)

    async def refused(self, address: str = ADDRESS, **auth: object) -> ConnectRefused:
        with pytest.raises(ConnectRefused) as caught:
            await self.log_in(address, **auth)
        return caught.value

    def limit_hits(self, key: str) -> int:
        return self.metrics.render().decode().count(f'limit_hits_total{{limit="{key}"}} 1.0')


@scenario
async def test_the_backend_is_asked_with_what_the_client_sent_and_its_address() -> None:
    game = Game({"true_id": "u-1", "name": "Ada", "attributes": {"team": "red", "level": 3}})
    identity = await game.log_in(ticket={"a": [1, None, "ü"]}, name="x")
    assert identity == Identity(TrueId("u-1"), "Ada", "webhook", '{"team":"red","level":3}')
    assert game.questions == [
        {"type": "auth", "auth": {"ticket": {"a": [1, None, "ü"]}, "name": "x"}, "address": ADDRESS}
    ]
    assert await game.authenticator.still_valid(TrueId("u-1"))


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"true_id": "u-1"}, "u-1"),
        ({"true_id": "u" * 128}, "u" * 16),
        ({"true_id": "u-1", "attributes": {"name": "Eve"}}, "Eve"),
        ({"true_id": "u-1", "name": "Ada", "attributes": {"name": "Eve"}}, "Ada"),
        ({"true_id": "u-1", "name": None, "error": None, "more": [1]}, "u-1"),
    ],
)
@scenario
async def test_a_name_comes_from_the_answer(answer: object, name: str) -> None:
    assert (await Game(answer).log_in()).name == name


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        ("bad_credentials", False),
        ("banned", False),
        ("rate_limited", True),
        ("server_full", True),
        ("unavailable", True),
    ],
)
@scenario
async def test_the_backends_refusals_are_the_clients(code: str, reconnect: bool) -> None:
    game = Game({"error": {"code": code, "message": "Not today", "retry_after": 7}})
    game.status = 403
    error = await game.refused()
    assert error.payload() == {
        "message": "Not today",
        "data": {"code": code, "reconnect": reconnect, "retry_after": 7},
    }
    game.answer = {"error": {"code": code}}
    assert (await game.refused()).message.endswith(("credentials", "player", "later"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({}, "there is neither `true_id` nor `error` in it"),
        ({"true_id": "u-1", "error": {"code": "banned"}}, "there are both `true_id` and `error`"),
        ({"true_id": 7}, "Expected `str | null`, got `int` - at `$.true_id`"),
        ({"true_id": ""}, "`true_id` must be 1 to 128 visible ASCII characters"),
        ({"true_id": "u" * 129}, "`true_id` must be 1 to 128 visible ASCII characters"),
        ({"true_id": "u 1"}, "`true_id` must be 1 to 128 visible ASCII characters"),
        ({"true_id": "u-1\n"}, "`true_id` must be 1 to 128 visible ASCII characters"),
        ({"true_id": "ü"}, "`true_id` must be 1 to 128 visible ASCII characters"),
        ({"true_id": "p_1"}, "`true_id` begins with p_, as ids of other players do"),
        ({"true_id": "jwt:1"}, "`true_id` begins with jwt:, as ids of other players do"),
        ({"true_id": ACCOUNT}, "`true_id` is that of a user with a password"),
        ({"true_id": "u-1", "name": ""}, "`name` is empty"),
        ({"true_id": "u-1", "name": "a\u202eb"}, "`name` contains U+202E"),
        ({"true_id": "u-1", "name": "a" * 17}, "`name` is longer than 16 bytes"),
        ({"true_id": "u-1", "attributes": {"name": 5}}, "`name` must be a string"),
        ({"true_id": "u-1", "attributes": [1]}, "Expected `object`, got `array`"),
        ({"true_id": "u-1", "attributes": {"a": "x" * 512}}, "`attributes` have 520 bytes"),
        ({"error": {"code": "token_reused"}}, "`error.code` must be one of bad_credentials"),
    ],
)
def test_an_answer_that_does_not_fit_lets_nobody_in(
    answer: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    @scenario
    async def unfit() -> None:
        error = await Game(answer).refused()
        assert (error.code, error.reconnect) == ("unavailable", True)
        assert error.retry_after
        # What is wrong is the operator's business.
        assert reason not in error.message

    unfit()
    assert [reason in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("true_id", ["p_1", "jwt:1", ACCOUNT])
@scenario
async def test_ids_of_other_players_are_taken_when_they_are_meant(true_id: str) -> None:
    game = Game({"true_id": true_id}, reserved=())
    assert (await game.log_in()).true_id == true_id


@scenario
async def test_an_outage_is_not_the_players_fault() -> None:
    game = Game(PostFailed("down"), attempts_per_minute=3)
    codes = [await game.refused() for _ in range(20)]
    assert {(error.code, bool(error.retry_after)) for error in codes} == {("unavailable", True)}
    assert len(game.questions) == 5


@scenario
async def test_more_than_may_be_asked_is_refused_unasked() -> None:
    game = Game({"true_id": "u-1"}, question_bytes=512)
    error = await game.refused(ticket="x" * 600)
    assert (error.code, "more than the 512 allowed" in error.message) == ("bad_credentials", True)
    assert game.limit_hits("auth.webhook.question_bytes") == 1
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert (await game.refused(ticket=deep)).code == "bad_credentials"
    assert game.questions == []


@scenario
async def test_refused_attempts_of_a_network_are_limited() -> None:
    game = Game({"error": {"code": "bad_credentials"}}, attempts_per_minute=3)
    for _ in range(3):
        assert (await game.refused()).code == "bad_credentials"
    error = await game.refused()
    assert (error.code, error.retry_after) == ("rate_limited", 20.0)
    assert game.limit_hits("auth.webhook.attempts_per_minute") == 1
    assert (await game.refused("198.51.100.1")).code == "bad_credentials"
    game.clock.now += 20
    game.answer = {"true_id": "u-1"}
    for _ in range(10):
        await game.log_in()
    assert len(game.questions) == 14


@scenario
async def test_attempts_that_nobody_waits_for_count_as_well() -> None:
    game = Game({"error": {"code": "bad_credentials"}}, attempts_per_minute=3)
    game.gate = Gate()
    guesses = [asyncio.ensure_future(game.log_in(guess=number)) for number in range(3)]
    await settled()
    assert (await game.refused()).code == "rate_limited"
    for guess in guesses:
        guess.cancel()
    await settled()
    assert (await game.refused()).code == "rate_limited"
    game.gate.open()
    assert len(game.questions) == 3


@scenario
async def test_the_webhook_takes_what_no_other_method_wants() -> None:
    game = Game({"true_id": "u-1"})
    guests = GuestAuthenticator(0, lambda: TrueId("p_1"))
    authentication = Authentication([guests, game.authenticator])

    async def method(auth: Mapping[str, object]) -> str:
        return (await authentication.authenticate(auth, ADDRESS)).method

    assert await method({"guest": True, "ticket": 1}) == "guest"
    assert await method({"ticket": 1}) == "webhook"
    # The method of that name is not enabled here: the game may have its own.
    assert await method({"username": "ann", "password": "secret"}) == "webhook"
    with pytest.raises(ConnectRefused) as caught:
        await method({})
    assert (caught.value.code, len(game.questions)) == ("bad_credentials", 2)
    assert await authentication.still_valid("webhook", TrueId("u-1"))


# Rooms


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"allow": True}, None),
        ({"allow": False}, ("forbidden", "you may not join this room", None)),
        ({"allow": False, "message": "Too young"}, ("forbidden", "Too young", None)),
        (
            {"error": {"code": "forbidden", "message": "Full", "retry_after": 9}},
            ("forbidden", "Full", 9),
        ),
        (
            {"error": {"code": "rate_limited"}},
            ("rate_limited", "too many joins; try again later", None),
        ),
        ({}, ("unavailable", "the game cannot say now who may join", 2.0)),
        ({"allow": 1}, ("unavailable", "the game cannot say now who may join", 2.0)),
        (
            {"allow": True, "error": {"code": "forbidden"}},
            ("unavailable", "the game cannot say now who may join", 2.0),
        ),
        (
            {"error": {"code": "banned"}},
            ("unavailable", "the game cannot say now who may join", 2.0),
        ),
        (PostFailed("down"), ("unavailable", "the game cannot say now who may join", 2.0)),
    ],
)
@scenario
async def test_the_backend_says_who_may_join(
    answer: object, expected: tuple[str, str, float | None] | None
) -> None:
    game = Game(answer, section="rooms.webhook")
    asking = WebhookRooms(game.inquiries).may_join(TrueId("u-1"), "lobby", '{"team":"red"}')
    if expected is None:
        assert await asking
    else:
        with pytest.raises(RequestRefused) as caught:
            await asking
        error = caught.value
        assert (error.code, error.message, error.retry_after) == expected
    assert game.questions == [
        {"type": "join", "true_id": "u-1", "room": "lobby", "attributes": {"team": "red"}}
    ]


class Door:
    """A policy that lets everybody in when it is opened."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.asked: list[tuple[str, str]] = []

    async def may_join(self, true_id: TrueId, room: str, attributes: str) -> bool:
        self.asked.append((room, attributes))
        await self.gate.wait()
        return True


@scenario
async def test_joins_that_wait_are_bounded_for_each_connection() -> None:
    door = Door()
    world = World(policy=door)
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    assert [ann.call("join", {"room": room}) for room in "ab"] == [None, None]
    assert ann.call("join", {"room": "c"})["error"]["code"] == "rate_limited"
    assert world.metric("limit_hits", "rooms.pending_joins") == 1
    assert bob.call("join", {"room": "a"}) is None
    door.gate.open()
    await settled()
    assert (ann.acks[1], ann.acks[2]) == ({"ok": True, "members": 1},) * 2
    assert bob.acks[1] == {"ok": True, "members": 2}
    assert door.asked == [("a", "{}"), ("b", "{}"), ("a", "{}")]
    # There is room again.
    assert ann.call("join", {"room": "c"}) is None
    await settled()
    assert ann.acks[4] == {"ok": True, "members": 1}


@scenario
async def test_a_leave_takes_a_join_back_that_waits() -> None:
    door = Door()
    world = World(policy=door)
    ann = await world.guest("Ann")
    assert ann.call("join", {"room": "a"}) is None
    assert ann.call("join", {"room": "b"}) is None
    assert ann.call("leave", {"room": "a"}) == {"ok": True, "members": 0}
    assert ann.acks[1]["error"]["code"] == "not_member"
    door.gate.open()
    await settled()
    assert world.rooms.rooms_of(ann.true_id) == ("b",)
    assert ann.call("leave", {"room": "a"})["error"]["code"] == "not_member"


@scenario
async def test_who_is_gone_when_the_answer_comes_does_not_join() -> None:
    door = Door()
    world = World(policy=door)
    ann = await world.guest("Ann")
    ann.call("join", {"room": "a"})
    await settled()
    ann.lose()
    door.gate.open()
    await settled()
    assert world.rooms.rooms_of(ann.true_id) == ()
    assert len(world.store.memberships) == 0
