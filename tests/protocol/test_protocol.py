"""The messages of the socket: what is said is the contract's JSON, what is heard is a command or refused."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from gateway.protocol import messages
from gateway.protocol.close_codes import ADVICE, Close
from gateway.protocol.commands import BadCommand, Command, CommandType, decode_command
from gateway.protocol.encoding import dumps, quoted
from gateway.protocol.items import MAX_SEQ, Content, Counts, Item, encode_item, encode_row, is_id
from gateway.protocol.links import safe_url
from gateway.protocol.times import encode_time, read_moment, timestamp
from gateway.protocol.wire import Message

# 123 is the code of the brace that a message begins with.
SIZES = [19, 20, 123, 125, 126, 127, 123 * 257, 65_535, 65_536, 70_000]

ID = "01936f00-0000-7000-8000-000000000001"

# Text as a database and a wire can carry it: no half of a surrogate pair.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
times = st.integers(0, 4_102_444_800_000)
numbers = st.integers(0, MAX_SEQ)
counts_of = st.builds(Counts, numbers, numbers, numbers, numbers)
contents = st.builds(
    Content,
    id=st.uuids().map(str),
    title=texts,
    body=st.none() | texts,
    category=st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
    priority=st.sampled_from(["low", "normal", "high", "urgent"]),
    url=st.none() | texts,
    data=st.none() | st.dictionaries(texts, texts, max_size=2).map(dumps),
    created_at=times,
    icon=st.none() | st.just("/icons/parcel.svg"),
    actions=st.none() | st.just('[{"id":"ok","label":"OK","style":"default","url":null,"reply":false}]'),
    expires_at=st.none() | times,
    edited_at=st.none() | times,
)
answers = st.none() | times.map(lambda time: f'{{"action":"ok","text":null,"at":{encode_time(time)}}}')
reasons = st.none() | st.sampled_from(["unsent", "expired", "replaced", "retention"])
maybe = st.none() | times
items = st.builds(Item, contents, numbers, numbers, maybe, maybe, maybe, maybe, answers, reasons)

ITEM_FIELDS = {
    "id",
    "created_seq",
    "seq",
    "title",
    "body",
    "category",
    "priority",
    "url",
    "data",
    "created_at",
    "icon",
    "actions",
    "expires_at",
    "edited_at",
    "read_at",
    "archived_at",
    "deleted_at",
    "snoozed_until",
    "answer",
    "deleted_reason",
}


@given(st.text() | json_values.map(json.dumps))
@example('{"type": ["read"]}')
@example('{"type": "ack", "seq": NaN}')
@example('{"type": "ack", "seq": ' + "9" * 5000 + "}")
@example("[" * 10_000)
def test_any_text_is_decoded_as_a_command_or_raises_bad_command(text: str) -> None:
    try:
        assert isinstance(decode_command(text), Command)
    except BadCommand as refused:
        messages.error(refused.code, refused.detail, refused.ref)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(list(CommandType)) | json_values},
        optional={
            "ref": json_values | st.text(max_size=70),
            "ids": json_values | st.lists(st.uuids().map(str), max_size=3),
            "up_to": json_values | numbers,
            "seq": json_values | numbers,
            "token": json_values,
            "until": json_values | times.map(timestamp),
            "id": json_values | st.uuids().map(str),
            "action": json_values,
            "text": json_values | st.text(max_size=1100),
        },
    )
)
def test_any_object_is_a_command_with_valid_fields_or_raises_bad_command(message: dict[str, Any]) -> None:
    try:
        command = decode_command(json.dumps(message))
    except BadCommand as refused:
        messages.error(refused.code, refused.detail, refused.ref)
        return
    assert command.type == message["type"]
    assert command.ref == message.get("ref")
    assert command.ref is None or len(command.ref.encode()) <= 4 * 64
    assert all(is_id(one) for one in command.ids)
    assert command.seq is None or 0 <= command.seq <= MAX_SEQ
    assert command.token is None or command.token == message["token"]
    assert command.until is None or timestamp(command.until) == message["until"]
    assert (command.type == CommandType.ACT) is bool(command.action)
    assert command.text is None or 1 <= len(command.text) <= len(command.text.encode()) <= 4 * 1000


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"type":"ping"}', Command(CommandType.PING)),
        ('{"type":"ping","ref":"a"}', Command(CommandType.PING, "a")),
        ('{"type":"ping","ref":null}', Command(CommandType.PING)),
        ('{"type":"ack","seq":0}', Command(CommandType.ACK, seq=0)),
        ('{"type":"seen","up_to":7}', Command(CommandType.SEEN, seq=7)),
        ('{"type":"read","up_to":7}', Command(CommandType.READ, seq=7)),
        (f'{{"type":"read","ids":["{ID}"]}}', Command(CommandType.READ, ids=(ID,))),
        (f'{{"type":"unread","ids":["{ID}"]}}', Command(CommandType.UNREAD, ids=(ID,))),
        (f'{{"type":"archive","ids":["{ID}"]}}', Command(CommandType.ARCHIVE, ids=(ID,))),
        (f'{{"type":"delete","ids":["{ID}"]}}', Command(CommandType.DELETE, ids=(ID,))),
        (f'{{"type":"snooze","ids":["{ID}"],"until":null}}', Command(CommandType.SNOOZE, ids=(ID,))),
        (
            f'{{"type":"act","id":"{ID}","action":"yes"}}',
            Command(CommandType.ACT, ids=(ID,), action="yes"),
        ),
        (
            f'{{"type":"act","id":"{ID.upper()}","action":"say","text":"x"}}',
            Command(CommandType.ACT, ids=(ID,), action="say", text="x"),
        ),
        ('{"type":"auth","token":"t"}', Command(CommandType.AUTH, token="t")),
        ('{"type":"ping","unknown":1}', Command(CommandType.PING)),
    ],
)
def test_each_command_is_understood(text: str, command: Command) -> None:
    assert decode_command(text) == command


@pytest.mark.parametrize(
    ("text", "code", "ref"),
    [
        ("", "malformed", None),
        ("nonsense", "malformed", None),
        ("[]", "malformed", None),
        ("null", "malformed", None),
        ('"ping"', "malformed", None),
        ("{}", "unknown_command", None),
        ('{"type":null}', "unknown_command", None),
        ('{"type":"PING","ref":"a"}', "unknown_command", "a"),
        ('{"type":"hello","ref":"a"}', "unknown_command", "a"),
        ('{"type":"ping","ref":1}', "invalid_field", None),
        ('{"type":"ping","ref":"' + "x" * 65 + '"}', "invalid_field", None),
        ('{"type":"ping","ref":"\\ud800"}', "invalid_field", None),
        ('{"type":"ack","ref":"a"}', "invalid_field", "a"),
        ('{"type":"ack","seq":-1}', "invalid_field", None),
        ('{"type":"ack","seq":1.5}', "invalid_field", None),
        ('{"type":"ack","seq":true}', "invalid_field", None),
        ('{"type":"ack","seq":"1"}', "invalid_field", None),
        ('{"type":"ack","seq":9223372036854775808}', "invalid_field", None),
        ('{"type":"read"}', "invalid_field", None),
        (f'{{"type":"read","ids":["{ID}"],"up_to":1}}', "invalid_field", None),
        ('{"type":"read","ids":[]}', "invalid_field", None),
        ('{"type":"read","ids":[1]}', "invalid_field", None),
        ('{"type":"read","ids":"x"}', "invalid_field", None),
        ('{"type":"archive","up_to":1}', "invalid_field", None),
        ('{"type":"seen"}', "invalid_field", None),
        ('{"type":"auth"}', "invalid_field", None),
        ('{"type":"auth","token":""}', "invalid_field", None),
    ],
)
def test_an_invalid_command_is_refused_with_its_ref(text: str, code: str, ref: str | None) -> None:
    with pytest.raises(BadCommand) as caught:
        decode_command(text)
    assert (caught.value.code, caught.value.ref) == (code, ref)


@pytest.mark.parametrize(
    ("given", "hint"), [("arhcive", " Did you mean archive?"), ("PING", " Did you mean ping?"), ("hello", "")]
)
def test_the_error_for_a_misspelt_command_suggests_the_right_one(given: str, hint: str) -> None:
    with pytest.raises(BadCommand) as caught:
        decode_command(json.dumps({"type": given}))
    assert caught.value.detail == f"type: one of {', '.join(CommandType)}.{hint}"


@given(items)
def test_an_item_has_exactly_the_fields_of_the_contract(item: Item) -> None:
    sent = json.loads(encode_item(item))
    assert set(sent) == ITEM_FIELDS
    kept = {name for name, value in sent.items() if value is not None}
    if item.deleted_at is not None:
        assert kept == {"id", "created_seq", "seq", "deleted_at", "deleted_reason"}
    else:
        assert sent["title"] == item.content.title
        assert sent["body"] == item.content.body
        assert sent["data"] == (json.loads(item.content.data) if item.content.data else None)
        assert (sent["read_at"] is None) == (item.read_at is None)
        assert (sent["archived_at"] is None) == (item.archived_at is None)


# What a database may hold, whoever has written it: any text but halves of surrogate pairs.
stored_texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    st.sampled_from('\\"/\0\x1f\x7f\b\n\r\t\u2028é😀%{}')
)
stored_links = stored_texts | st.sampled_from(
    ["/orders/7", "https://example.com/a?b=%20c#é", "//evil.example"]
)
stored_data = st.dictionaries(stored_texts, json_values, max_size=3).map(dumps)
stored_contents = st.builds(
    Content,
    id=st.uuids().map(str),
    title=stored_texts | st.integers(0, 10_000).map("é".__mul__),
    body=st.none() | stored_texts,
    category=stored_texts,
    priority=st.sampled_from(["low", "normal", "high", "urgent"]),
    url=st.none() | stored_links,
    data=st.none() | stored_data,
    created_at=times,
    icon=st.none() | stored_links,
    actions=st.none() | stored_data,
    expires_at=maybe,
    edited_at=maybe,
)
stored_items = st.builds(
    Item, stored_contents, numbers, numbers, maybe, maybe, maybe, maybe, answers, reasons
)


def rfc_3339(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    time = datetime(1970, 1, 1) + timedelta(milliseconds=milliseconds)  # noqa: DTZ001 - in UTC
    return f"{time.isoformat(timespec='milliseconds')}Z"


def plain(item: Item) -> dict[str, Any]:
    """Return an item as its receiver reads it."""
    content, deleted = item.content, item.deleted_at is not None
    shared = {
        "title": content.title,
        "body": content.body,
        "category": content.category,
        "priority": content.priority,
        "url": safe_url(content.url),
        "data": None if content.data is None else json.loads(content.data),
        "created_at": rfc_3339(content.created_at),
        "icon": safe_url(content.icon),
        "actions": None if content.actions is None else json.loads(content.actions),
        "expires_at": rfc_3339(content.expires_at),
        "edited_at": rfc_3339(content.edited_at),
        "read_at": rfc_3339(item.read_at),
        "archived_at": rfc_3339(item.archived_at),
    }
    later = {
        "snoozed_until": rfc_3339(item.snoozed_until),
        "answer": None if item.answer is None else json.loads(item.answer),
    }
    return {
        "id": content.id,
        "created_seq": item.created_seq,
        "seq": item.seq,
        **(dict.fromkeys(shared) if deleted else shared),
        "deleted_at": rfc_3339(item.deleted_at),
        **(dict.fromkeys(later) if deleted else later),
        "deleted_reason": (item.deleted_reason or "user") if deleted else None,
    }


@given(stored_items)
def test_an_item_and_its_row_are_encoded_as_json_encodes_their_values(item: Item) -> None:
    expected = json.dumps(plain(item), ensure_ascii=False, separators=(",", ":"))
    assert encode_item(item) == expected
    assert encode_row((*item.content, *item[1:])) == expected


@given(stored_contents, numbers, numbers)
def test_a_new_item_is_encoded_as_its_row_for_each_recipient(content: Content, one: int, other: int) -> None:
    for seq in (one, other):
        assert encode_item(Item(content, seq, seq)) == encode_row((*content, seq, seq, *[None] * 6))


@given(items, counts_of, numbers, texts)
def test_every_message_is_json_with_the_fields_of_the_contract(
    item: Item, counts: Counts, seq: int, text: str
) -> None:
    encoded = encode_item(item)
    counted = {"unread", "unseen"}
    expiry = 1_800_000_000
    made = {
        messages.hello(text, "e", counts, 30, expiry): (
            "hello",
            {"sub", "epoch", "seq", "heartbeat", "expires_at"} | counted,
        ),
        messages.notification(encoded, seq, counts): (
            "notification",
            {"seq", "notification", "alert"} | counted,
        ),
        messages.changed([encoded, encoded], seq, counts): ("changed", {"seq", "items"} | counted),
        messages.read_up_to(seq, seq, counts): ("read", {"seq", "up_to"} | counted),
        messages.seen(counts): ("seen", {"up_to", "unseen"}),
        messages.reset("e", counts): ("reset", {"epoch", "seq", "oldest_seq"} | counted),
        messages.live(counts): ("live", {"seq"} | counted),
        messages.heartbeat(counts): ("heartbeat", {"seq"} | counted),
        messages.token_expiring(expiry): ("token_expiring", {"expires_at"}),
        messages.ok(text): ("ok", {"ref"}),
        messages.error("malformed", text, text): ("error", {"ref", "code", "detail"}),
        messages.close(Close.RESTART, text): ("close", {"code", "reason"}),
    }
    for sent, (kind, fields) in made.items():
        message = json.loads(sent.payload)
        assert message["type"] == sent.kind == kind
        assert set(message) == fields | {"type"}
        # Those that say where the client is from now on, and no others.
        moves = kind in {"notification", "changed", "read", "reset", "live"}
        assert sent.seq == (message["seq"] if moves else None)
        assert sent.epoch == message.get("epoch")


def test_times_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert timestamp(1_795_167_000_007) == "2026-11-20T09:30:00.007Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("2026-02-30T09:30:00Z", "no such day or time"),
        ("2026-11-31T09:30:00+01:00", "no such day or time"),
        ("0000-01-01T00:00:00Z", "no such day or time"),
        ("2026-11-20T24:00:00Z", "no such day or time"),
        ("2026-11-20T09:60:00Z", "no such day or time"),
        ("2026-11-20T09:30:60Z", "no such day or time"),
        ("2026-11-20T09:30:00+25:00", "no such day or time"),
        ("2026-11-20T09:30:00+24:00", "no such day or time"),
        ("2026-11-20T09:30:00+14:60", "no such day or time"),
        ("2026-11-20T09:30:00-00:99", "no such day or time"),
        ("2026-11-20T09:30:00", "with its zone"),
        ("2026-11-20T09:30:00+0100", "with its zone"),
        ("2026-11-20 09:30:00Z", "with its zone"),
        ("2026-11-20T9:30:00Z", "with its zone"),
        ("1969-12-31T23:59:59Z", "between 1970 and 9999"),
        ("9999-12-31T23:59:59-23:59", "between 1970 and 9999"),
    ],
)
def test_a_time_that_does_not_exist_is_told_from_one_in_another_form(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        read_moment(text)


@pytest.mark.parametrize(
    "text", ["2026-11-20T09:30:00Z", "2026-11-20t09:30:00.000z", "2026-11-20T23:29:00+13:59"]
)
def test_a_time_has_any_zone_that_exists(text: str) -> None:
    assert timestamp(read_moment(text)) == "2026-11-20T09:30:00.000Z"


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_is_that_of_the_calendar(milliseconds: int) -> None:
    assert timestamp(milliseconds) == rfc_3339(milliseconds)


def test_every_close_code_comes_with_advice() -> None:
    assert set(ADVICE) == set(Close)


def test_encoding_a_number_outside_json_fails() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"x": float("nan")})


@pytest.mark.parametrize("size", SIZES)
def test_a_websocket_client_can_read_a_frame(size: int) -> None:
    """Read it with the parser of a library: a server's frame, whole, not masked."""
    parser = ClientProtocol(parse_uri("ws://gateway"), state=State.OPEN, max_size=None)
    message = sized(size)
    parser.receive_data(message.frame)
    (read,) = parser.events_received()
    assert isinstance(read, Frame)
    assert (read.opcode, read.fin) == (Opcode.TEXT, True)
    assert bytes(read.data) == message.payload
    assert len(message.payload) == size
    assert json.loads(message.payload)["type"] == "t"


def sized(size: int) -> Message:
    """Return a message whose JSON has so many bytes."""
    rest = size - len(Message("t", '"x":""').payload)
    return Message("t", f'"x":"{"é" * (rest // 2)}{"x" * (rest % 2)}"')


@given(items, counts_of)
def test_an_event_has_three_lines_with_the_message(item: Item, counts: Counts) -> None:
    message = messages.notification(encode_item(item), counts.seq, counts)
    lines = message.event("e").split(b"\n")
    assert lines[:2] == [f"id: e.{counts.seq}".encode(), b"event: notification"]
    assert lines[2] == b"data: " + message.payload
    assert lines[3:] == [b"", b""]
    assert b"\r" not in message.event("e")


def test_an_event_that_does_not_advance_the_position_has_no_id() -> None:
    assert messages.ok("r").event("e") == b'event: ok\ndata: {"type":"ok","ref":"r"}\n\n'


@given(st.none() | st.text() | st.text(alphabet=st.characters(max_codepoint=0x2FFF)))
@example('"\\/\b\f\n\r\t\x00\x7f\u2028\ud800é😀')
def test_quoting_a_text_equals_encoding_it_as_json(text: str | None) -> None:
    assert quoted(text) == dumps(text)
