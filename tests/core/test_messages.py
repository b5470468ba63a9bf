"""The payloads of events: what is accepted, what is refused, and what goes out."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from gateway.errors import ProtocolViolation, RequestRefused
from gateway.hot_events import (
    SEND_PREFIX,
    decode_publish,
    decode_send,
    encode_body,
    encode_message,
    encode_volatile,
    without_offset,
)
from gateway.messages import (
    Join,
    ListMembers,
    ListPlayers,
    Logout,
    PresenceSet,
    PresenceWatch,
    Publish,
    Receipt,
    SendMessage,
    check_publish,
    check_room_name,
    decode_event,
    decode_payload,
    encode,
    encode_event,
    event_name,
)

KINDS: list[type] = [
    SendMessage,
    PresenceSet,
    PresenceWatch,
    ListPlayers,
    Logout,
    Join,
    ListMembers,
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def refused_send(array: bytes) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        decode_send(array)
    return caught.value


# Out


def test_an_event_is_an_array_of_its_name_and_one_object() -> None:
    assert encode_event("presence", {"true_id": "ann"}) == b'["presence",{"true_id":"ann"}]'


def test_a_message_carries_its_id_twice_for_clients_that_keep_offsets() -> None:
    array = encode_message(b"e.1.a", encode_body("ann", b"[1]", b"5.0"))
    payload = b'{"id":"e.1.a","from":"ann","data":[1],"ts":5.0}'
    assert array == b'["message",' + payload + b',"e.1.a"]'
    assert without_offset(b"e.1.a", array) == b'["message",' + payload + b"]"


def test_a_volatile_message_has_neither_id_nor_offset() -> None:
    array = encode_volatile(encode_body(None, b"1", b"5.0"))
    assert array == b'["message",{"from":null,"data":1,"ts":5.0}]'


@pytest.mark.parametrize(
    ("kind", "room", "rest"),
    [
        (None, None, b""),
        ("chat", None, b',"type":"chat"'),
        (None, "hall", b',"room":"hall"'),
        ("chat", "hall", b',"room":"hall","type":"chat"'),
    ],
)
def test_room_and_type_are_there_when_the_sender_gave_them(
    kind: str | None, room: str | None, rest: bytes
) -> None:
    array = encode_message(b"i", encode_body("ann", b"1", b"5.0", kind, room))
    payload = b'{"id":"i","from":"ann","data":1,"ts":5.0%b}' % rest
    assert array == b'["message",%b,"i"]' % payload


ids = st.from_regex(r"[a-z0-9]{1,16}\.[1-9][0-9]{0,17}\.[a-z0-9]{0,16}", fullmatch=True)


@given(
    message_id=ids,
    sender=st.none() | st.text(),
    data=json_values,
    ts=st.integers(0, 2**33 * 1000),
    kind=st.none() | st.text(),
    room=st.none() | st.text(),
)
@settings(deadline=None)
def test_a_message_is_json_in_each_form_and_its_keys_keep_their_order(
    message_id: str,
    sender: str | None,
    data: object,
    ts: int,
    kind: str | None,
    room: str | None,
) -> None:
    body = encode_body(sender, encode(data), b"%.3f" % (ts / 1000), kind, room)
    expected: dict[str, object] = {"id": message_id, "from": sender, "data": data, "ts": ts / 1000}
    expected |= {"room": room} if room is not None else {}
    expected |= {"type": kind} if kind is not None else {}
    array = encode_message(message_id.encode(), body)
    name, payload, offset = json.loads(array)
    assert (name, offset) == ("message", message_id)
    # As lists: a dictionary is equal to one in another order.
    assert list(payload.items()) == list(expected.items())
    assert json.loads(without_offset(message_id.encode(), array)) == ["message", payload]
    name, volatile = json.loads(encode_volatile(body))
    assert name == "message"
    del expected["id"]
    assert list(volatile.items()) == list(expected.items())


def test_data_goes_out_byte_for_byte_as_it_came_in() -> None:
    data = b'{ "b" : 1.50e2,"a":"\\u00e9\\/" }'
    request = decode_send(b'["message",{"target_id":"ann","data":%b}]' % data)
    for form in (request.data, bytes(request.data)):
        body = encode_body("bob", form, b"5.0")
        assert b'"data":%b,"ts"' % data in encode_message(b"i", body)


def test_a_receipt_has_all_fields_of_the_protocol() -> None:
    receipt = Receipt(ok=True, id=None, status="dropped", connections=0)
    assert json.loads(encode(receipt)) == {
        "ok": True,
        "id": None,
        "status": "dropped",
        "connections": 0,
        "duplicate": False,
    }


@given(data=json_values, sender=st.none() | st.text(), kind=st.text(min_size=1))
@settings(deadline=None)
def test_any_payload_survives_the_way_through(data: object, sender: str | None, kind: str) -> None:
    array = encode(["message", {"target_id": "ann", "data": data, "type": kind[:64]}])
    request = decode_send(array)
    assert request.type is not None
    body = encode_body(sender, request.data, b"1.0", request.type)
    name, payload, offset = json.loads(encode_message(b"e.1.a", body))
    assert (name, offset) == ("message", "e.1.a")
    assert payload == {"id": "e.1.a", "from": sender, "data": data, "ts": 1.0, "type": kind[:64]}


# In: events


def test_an_event_is_split_into_name_and_undecoded_arguments() -> None:
    name, arguments = decode_event(b'["join", {"room":"hall"} ,1]')
    assert name == "join"
    assert [bytes(argument) for argument in arguments] == [b'{"room":"hall"}', b"1"]


@pytest.mark.parametrize(
    "array",
    [b"", b"[]", b"{}", b'"message"', b"[1]", b"[null,{}]", b'["a"', b'["a",]', b'["\xff"]', b"x"],
)
def test_what_no_client_sends_breaks_the_protocol(array: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_event(array)


@pytest.mark.parametrize(
    ("array", "hot"),
    [
        (b'["message",{"target_id":"a","data":1}]', True),
        (b'["message" ,{}]', False),
        (b'["messages",{}]', False),
        (b'["message"]', False),
        (b'["join",{}]', False),
    ],
)
def test_the_hot_event_is_known_by_its_first_bytes(array: bytes, hot: bool) -> None:
    assert array.startswith(SEND_PREFIX) is hot


@pytest.mark.parametrize("depth", [2_000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_json_that_is_nested_too_deeply_is_refused(depth: int, brackets: str) -> None:
    opening = "[" if brackets == "[]" else '{"a":'
    data = (opening * depth + "1" + brackets[1] * depth).encode()
    array = b'["message",{"target_id":"ann","data":%b}]' % data
    for decode in (decode_event, decode_send):
        with pytest.raises(RequestRefused, match="too deeply") as caught:
            decode(array)
        assert caught.value.code == "bad_request"
    for kind in KINDS:
        with pytest.raises(RequestRefused):
            decode_payload("event", [Raw(data)], kind)


@pytest.mark.parametrize(
    "text", [rb"\ud83d", rb"\ude00", rb"\ud83d and more", rb"\ude00\ud83d", rb"\uD83D\n"]
)
def test_half_a_surrogate_pair_is_refused_and_no_reason_to_close(text: bytes) -> None:
    # JSON.stringify writes that for a text that was cut in the middle of an emoji.
    payload = b'{"target_id":"ann","data":"%b"}' % text
    refused = refused_send(b'["message",%b]' % payload)
    assert refused.code == "bad_request"
    assert "surrogate" in refused.message
    with pytest.raises(RequestRefused, match="surrogate"):
        decode_event(b'["message" ,%b]' % payload)
    with pytest.raises(RequestRefused, match="surrogate"):
        decode_payload("message", [Raw(payload)], SendMessage)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    request = decode_send(rb'["message",{"target_id":"\ud83d\ude00","data":1}]')
    assert request.target_id == "\U0001f600"


# In: payloads


def test_a_message_needs_target_and_data_only() -> None:
    request = decode_send(b'["message",{"target_id":"ann","data":null}]')
    assert (request.target_id, bytes(request.data)) == ("ann", b"null")
    assert (request.type, request.id, request.volatile) == (None, None, False)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ('{"data":1}', "target_id"),
        ('{"target_id":"ann"}', "data"),
        ('{"target_id":5,"data":1}', "target_id"),
        ('{"target_id":"","data":1}', "target_id"),
        ('{"target_id":null,"data":1}', "target_id"),
        ('{"target_id":"%s","data":1}' % ("a" * 129), "target_id"),
        ('{"target_id":"ann","data":1,"type":7}', "type"),
        ('{"target_id":"ann","data":1,"type":""}', "type"),
        ('{"target_id":"ann","data":1,"type":"%s"}' % ("a" * 65), "type"),
        ('{"target_id":"ann","data":1,"id":7}', "id"),
        ('{"target_id":"ann","data":1,"id":"%s"}' % ("a" * 129), "id"),
        ('{"target_id":"ann","data":1,"volatile":1}', "volatile"),
        ('{"target_id":"ann","data":1,"volatile":null}', "volatile"),
        ('{"target_id":"ann","data":1,"colour":1}', "colour"),
        ("[]", None),
        ("1", None),
        ("null", None),
    ],
)
def test_a_refused_message_names_the_field(payload: str, field: str | None) -> None:
    refused = refused_send(b'["message",%b]' % payload.encode())
    assert (refused.code, refused.field) == ("bad_request", field)
    assert refused.message.startswith("message: ")


@pytest.mark.parametrize("rest", ["", ",{}", ',{"target_id":"ann","data":1},1'])
def test_a_message_takes_one_argument(rest: str) -> None:
    with pytest.raises((RequestRefused, ProtocolViolation)):
        decode_send(b'["message"%b]' % rest.encode())


@pytest.mark.parametrize(
    "array",
    [
        b'["message",',
        b'["message",{]',
        b'["message",{"data":tru}]',
        b'["message",{}]]',
        b'["message",{"colour":1,"data":}]',
    ],
)
def test_a_message_that_is_no_json_breaks_the_protocol(array: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_send(array)


def test_a_refusal_echoes_little_of_what_the_client_sent() -> None:
    refused = refused_send(b'["message",{"%b":1}]' % (b"k" * 100_000))
    assert len(refused.message) < 300
    assert refused.field is not None
    assert len(refused.field) <= 200


def test_a_payload_that_is_left_out_is_an_empty_object() -> None:
    assert decode_payload("logout", [], Logout) == Logout(everywhere=False)
    assert decode_payload("players", [], ListPlayers) == ListPlayers(limit=100, cursor=None)


def test_two_payloads_are_refused() -> None:
    with pytest.raises(RequestRefused, match="takes one object, not 2"):
        decode_payload("logout", [Raw(b"{}"), Raw(b"{}")], Logout)


@pytest.mark.parametrize(
    ("kind", "payload", "field"),
    [
        (PresenceSet, "{}", "state"),
        (PresenceSet, '{"state":"offline"}', "state"),
        (PresenceSet, '{"state":1}', "state"),
        (PresenceSet, '{"state":"active","status":"%s"}' % ("s" * 129), "status"),
        (PresenceWatch, "{}", "true_ids"),
        (PresenceWatch, '{"true_ids":"ann"}', "true_ids"),
        (PresenceWatch, '{"true_ids":["ann",""]}', "true_ids[1]"),
        (PresenceWatch, '{"true_ids":[5]}', "true_ids[0]"),
        (PresenceWatch, json.dumps({"true_ids": ["a"] * 1001}), "true_ids"),
        (ListPlayers, '{"limit":0}', "limit"),
        (ListPlayers, '{"limit":201}', "limit"),
        (ListPlayers, '{"limit":1.5}', "limit"),
        (ListPlayers, '{"cursor":3}', "cursor"),
        (Logout, '{"everywhere":"yes"}', "everywhere"),
        (Logout, '{"anywhere":true}', "anywhere"),
        (Logout, "null", None),
    ],
)
def test_a_wrong_payload_names_its_field(kind: type, payload: str, field: str | None) -> None:
    with pytest.raises(RequestRefused) as caught:
        decode_payload("event", [Raw(payload.encode())], kind)
    assert (caught.value.code, caught.value.field) == ("bad_request", field)


@given(array=st.binary() | st.text().map(str.encode))
@settings(deadline=None)
def test_any_bytes_decode_or_are_refused(array: bytes) -> None:
    for text in (array, b'["message",' + array, b'["message",{"target_id":"a","data":' + array):
        for decode in (decode_event, decode_send):
            try:
                decode(text)
            except (RequestRefused, ProtocolViolation) as error:
                encode(str(error))


@given(name=st.text(), payload=json_values, more=st.lists(json_values, max_size=2))
@settings(deadline=None)
def test_any_json_decodes_or_is_refused(name: str, payload: object, more: list[object]) -> None:
    array = encode([name, payload, *more])
    decoded, arguments = decode_event(array)
    assert decoded == name
    assert [json.loads(bytes(argument)) for argument in arguments] == [payload, *more]
    for kind in KINDS:
        try:
            decode_payload(name, arguments, kind)
        except RequestRefused as error:
            encode(error.payload())


DIGITS = "9" * 101


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (DIGITS, "digits"),
        ("-" + DIGITS, "digits"),
        ('{"a":[1,' + DIGITS + "]}", "digits"),
        ("[" * 101 + "]" * 101, "deeply"),
        ('{"a":' * 101 + "1" + "}" * 101, "deeply"),
    ],
)
def test_data_that_would_break_recipients_is_refused(data: str, wrong: str) -> None:
    array = f'["message",{{"target_id":"bob","data":{data}}}]'.encode()
    with pytest.raises(RequestRefused, match=wrong) as caught:
        decode_send(array)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize(
    "data",
    [
        "9" * 100,
        json.dumps("9" * 5000),
        json.dumps({'a"' + "[" * 200: "\\" + "{" * 200}),
        "[" * 99 + "]" * 99,
        json.dumps([[]] * 500),
    ],
)
def test_long_texts_and_wide_data_are_fine(data: str) -> None:
    array = f'["message",{{"target_id":"bob","data":{data}}}]'.encode()
    assert bytes(decode_send(array).data).decode() == data


def test_name_of_a_refused_event_is_found_if_it_has_one() -> None:
    assert event_name(b'["join",{}]') == "join"
    assert event_name(b"nonsense") == ""
    assert event_name(b"[]") == ""


# Rooms


def refused_publish(payload: bytes) -> RequestRefused:
    array = b'["publish",%b]' % payload
    with pytest.raises(RequestRefused) as caught:
        decode_publish(array)
    return caught.value


def test_a_publish_has_these_fields() -> None:
    request = decode_publish(b'["publish",{"room":"a","data":[1]}]')
    assert (request.room, bytes(request.data), request.echo) == ("a", b"[1]", True)
    assert (request.type, request.id, request.volatile, request.key) == (None, None, False, None)
    full = {"room": "a", "data": 1, "type": "t", "id": "i", "volatile": True, "key": "k"}
    request = decode_publish(encode(["publish", {**full, "echo": False}]))
    assert (request.type, request.id, request.volatile) == ("t", "i", True)
    assert (request.key, request.echo) == ("k", False)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b'{"data":1}', "room"),
        (b'{"room":1,"data":1}', "room"),
        (b'{"room":"a"}', "data"),
        (b'{"room":"a","data":1,"key":""}', "key"),
        (b'{"room":"a","data":1,"echo":1}', "echo"),
        (b'{"room":"a","data":1,"target_id":"b"}', "target_id"),
    ],
)
def test_a_wrong_publish_names_the_field(payload: bytes, field: str) -> None:
    refused = refused_publish(payload)
    assert (refused.code, refused.field) == ("bad_request", field)
    assert refused.message.startswith("publish: ")


def test_a_publish_that_breaks_recipients_or_the_protocol_is_refused() -> None:
    for data in (b"[" * 200 + b"]" * 200, b"1" * 200):
        assert refused_publish(b'{"room":"a","data":%b}' % data).code == "bad_request"
        with pytest.raises(RequestRefused):
            decode_payload("publish", [Raw(b'{"room":"a","data":%b}' % data)], Publish)
    with pytest.raises(ProtocolViolation):
        decode_publish(b'["publish",{"room":"a","data":}]')


def test_a_key_needs_a_volatile_message() -> None:
    check_publish(Publish("a", Raw(b"1"), volatile=True, key="k"))
    with pytest.raises(RequestRefused) as caught:
        check_publish(Publish("a", Raw(b"1"), key="k"))
    assert (caught.value.code, caught.value.field) == ("bad_request", "key")


@given(st.text(max_size=140))
@settings(deadline=None)
def test_room_names_are_bounded_and_have_no_control_characters(room: str) -> None:
    good = 0 < len(room) <= 128 and not any(unicodedata.category(each) == "Cc" for each in room)
    if good:
        check_room_name(room)
        return
    with pytest.raises(RequestRefused) as caught:
        check_room_name(room)
    assert (caught.value.code, caught.value.field) == ("bad_request", "room")
