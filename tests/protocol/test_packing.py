"""MessagePack: each message and command is that of JSON, with ids as 16 bytes and times as milliseconds."""

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from gateway.protocol import messages
from gateway.protocol.commands import (
    BadCommand,
    Command,
    CommandType,
    decode_command,
    decode_packed_command,
)
from gateway.protocol.encoding import dumps
from gateway.protocol.items import MAX_SEQ, Content, Counts, Item, encode_item
from gateway.protocol.packing import MAX_ARRAY
from gateway.protocol.times import encode_time, now_ms, parse_time, timestamp
from gateway.protocol.wire import MAX_FRAME, Message
from tests.support.packing import packed, unpacked

ID = "01936f00-0000-7000-8000-000000000001"
RAW_ID = UUID(ID).bytes

# Text as a database and a wire can carry it: no half of a surrogate pair.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
# `data` may name a field as an item does; what it holds there is its own.
names = texts | st.sampled_from(["id", "created_at", "type", "items", "notification"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.just(ID)
    | st.just("2026-11-20T09:30:00.007Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)
times = st.integers(0, 253_402_300_799_999)
numbers = st.integers(0, MAX_SEQ)
counts_of = st.builds(Counts, numbers, numbers, numbers, numbers, st.integers(0, MAX_SEQ - 1))
contents = st.builds(
    Content,
    id=st.uuids().map(str),
    title=texts,
    body=st.none() | texts,
    category=st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
    priority=st.sampled_from(["low", "normal", "high", "urgent"]),
    url=st.none() | st.just("/orders/7"),
    data=st.none() | st.dictionaries(names, values, max_size=3).map(dumps),
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


def shortly(value: Any) -> str:
    """Return a name for a parameter."""
    return ascii(value)[:60]


def unframed(frame: bytes) -> bytes:
    """Return the payload of a frame, by the parser of a library: a server's, binary, whole, not masked."""
    parser = ClientProtocol(parse_uri("ws://gateway"), state=State.OPEN, max_size=None)
    parser.receive_data(frame)
    (read,) = parser.events_received()
    assert isinstance(read, Frame)
    assert (read.opcode, read.fin) == (Opcode.BINARY, True)
    return bytes(read.data)


@given(items, items, counts_of, numbers, texts, times)
def test_every_packed_message_equals_its_json(
    item: Item, other: Item, counts: Counts, seq: int, text: str, time: int
) -> None:
    one, two = encode_item(item), encode_item(other)
    made = [
        messages.hello(text, "e", counts, 30, time // 1000),
        messages.hello(text, "e", counts, 0.5, time // 1000),
        messages.notification(one, seq, counts),
        messages.changed([one, two], seq, counts),
        messages.changed([], seq, counts),
        messages.read_up_to(seq, seq, counts),
        messages.seen(counts),
        messages.reset("e", counts),
        messages.live(counts),
        messages.heartbeat(counts),
        messages.token_expiring(time // 1000),
        messages.ok(text),
        messages.error("malformed", text, text),
        messages.error("malformed", text),
    ]
    for message in made:
        data = unframed(message.packed_frame)
        assert unpacked(data) == json.loads(message.payload)
        assert list(msgpack.unpackb(data)) == list(json.loads(message.payload))


def test_the_packed_fields_have_the_documented_encoding() -> None:
    content = Content(
        ID, "Hi", None, "default", "normal", None, '{"id":"x","created_at":1}', 1_795_167_000_007
    )
    message = messages.notification(encode_item(Item(content, 5, 6, read_at=7)), 6, Counts(6, 1, 0, 0))
    assert msgpack.unpackb(unframed(message.packed_frame)) == {
        "type": "notification",
        "seq": 6,
        "notification": {
            "id": RAW_ID,
            "created_seq": 5,
            "seq": 6,
            "title": "Hi",
            "body": None,
            "category": "default",
            "priority": "normal",
            "url": None,
            "data": {"id": "x", "created_at": 1},
            "created_at": 1_795_167_000_007,
            "icon": None,
            "actions": None,
            "expires_at": None,
            "edited_at": None,
            "read_at": 7,
            "archived_at": None,
            "deleted_at": None,
            "snoozed_until": None,
            "answer": None,
            "deleted_reason": None,
        },
        "unread": 1,
        "unseen": 0,
        "alert": True,
    }


@pytest.mark.parametrize(
    ("number", "read"),
    [
        (10**30, 1e30),
        (-(10**30), -1e30),
        (10**400, float("inf")),
        (-(10**400), -float("inf")),
        (2**64 - 1, 2**64 - 1),
    ],
    ids=shortly,
)
def test_a_number_outside_messagepack_is_packed_as_its_javascript_value(number: int, read: float) -> None:
    content = Content(ID, "Hi", None, "default", "normal", None, dumps({"n": [number]}), 0)
    message = messages.notification(encode_item(Item(content, 1, 1)), 1, Counts(1, 1, 1, 0))
    assert msgpack.unpackb(unframed(message.packed_frame))["notification"]["data"] == {"n": [read]}


@pytest.mark.parametrize("depth", [100, 197, 198, 199, 200, 400])
def test_deeply_nested_data_is_packed(depth: int) -> None:
    data: Any = 1
    for _ in range(depth):
        data = {"x": data}
    content = Content(ID, "Hi", None, "default", "normal", None, dumps(data), 0)
    message = messages.notification(encode_item(Item(content, 1, 1)), 1, Counts(1, 1, 1, 0))
    assert msgpack.unpackb(unframed(message.packed_frame))["notification"]["data"] == data


@given(times)
def test_a_parsed_timestamp_equals_the_written_time(time: int) -> None:
    assert parse_time(timestamp(time)) == time


def test_a_message_is_packed_once() -> None:
    message = messages.ok("r")
    assert message.packed_frame is message.packed_frame


@pytest.mark.parametrize("size", [1, 100, 126, 65_535, 65_536, 70_000])
def test_a_websocket_client_can_read_packed_frames_of_each_length(size: int) -> None:
    assert msgpack.unpackb(unframed(Message("t", f'"x":"{"x" * size}"').packed_frame))["x"] == "x" * size


# --- commands -----------------------------------------------------------------------------------------------


def outcome(decode: Any, frame: str | bytes) -> Command | tuple[str, str, str | None]:
    """Return the command, or how it was refused."""
    try:
        command: Command = decode(frame)
    except BadCommand as refused:
        messages.error(refused.code, refused.detail, refused.ref)
        return refused.code, refused.detail, refused.ref
    return command


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from([str(kind) for kind in CommandType]) | values},
        optional={
            "ref": values | st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
            "ids": values | st.lists(st.uuids().map(str), max_size=3),
            "up_to": values | numbers,
            "seq": values | numbers,
            "token": values,
            "until": st.none() | st.booleans() | st.integers(0, 4_102_444_800_000).map(timestamp),
            "id": st.none() | st.uuids().map(str),
            "action": values,
            "text": values,
            "unknown": values,
        },
    )
)
@example({"type": "ack", "seq": 2**63})
@example({"type": "ack", "seq": -1})
@example({"type": "ack", "seq": 1.0})
@example({"type": ["read"], "ref": "a"})
@example({"type": "reed", "ref": "a"})
def test_a_packed_command_is_accepted_or_refused_like_its_json(message: dict[str, Any]) -> None:
    assert outcome(decode_packed_command, packed(message)) == outcome(decode_command, json.dumps(message))


@given(st.binary() | values.map(msgpack.packb) | st.binary().map(lambda rest: b"\x81\xa4type" + rest))
def test_any_bytes_are_decoded_as_a_command_or_refused(data: bytes) -> None:
    with suppress(UnicodeDecodeError):
        assert outcome(decode_packed_command, data)


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"type": "ping"}, Command(CommandType.PING)),
        ({"type": "ping", "ref": "a"}, Command(CommandType.PING, "a")),
        ({"type": "ack", "seq": MAX_SEQ}, Command(CommandType.ACK, seq=MAX_SEQ)),
        ({"type": "read", "up_to": 7}, Command(CommandType.READ, seq=7)),
        ({"type": "read", "ids": [RAW_ID]}, Command(CommandType.READ, ids=(ID,))),
        ({"type": "unread", "ids": [RAW_ID]}, Command(CommandType.UNREAD, ids=(ID,))),
        ({"type": "archive", "ids": [RAW_ID]}, Command(CommandType.ARCHIVE, ids=(ID,))),
        ({"type": "delete", "ids": [RAW_ID]}, Command(CommandType.DELETE, ids=(ID,))),
        ({"type": "snooze", "ids": [RAW_ID], "until": None}, Command(CommandType.SNOOZE, ids=(ID,))),
        (
            {"type": "act", "id": RAW_ID, "action": "say", "text": "x"},
            Command(CommandType.ACT, ids=(ID,), action="say", text="x"),
        ),
        ({"type": "seen", "up_to": 0}, Command(CommandType.SEEN, seq=0)),
        ({"type": "auth", "token": "t"}, Command(CommandType.AUTH, token="t")),
    ],
    ids=str,
)
def test_each_packed_command_is_understood(fields: dict[str, Any], command: Command) -> None:
    assert decode_packed_command(msgpack.packb(fields)) == command


@pytest.mark.parametrize(
    "until", [-1, 2**63, 253_402_300_800_000, 1.5, True, "2026-11-20T09:30:00.000Z", b"x"]
)
def test_a_packed_time_that_is_no_time_is_refused(until: Any) -> None:
    frame = msgpack.packb({"type": "snooze", "ids": [RAW_ID], "until": until})
    with pytest.raises(BadCommand, match="it must be an integer in ms since 1970, or nil"):
        decode_packed_command(frame)


def test_a_packed_time_is_in_milliseconds() -> None:
    until = now_ms() + 90_001
    command = decode_packed_command(msgpack.packb({"type": "snooze", "ids": [RAW_ID], "until": until}))
    assert command == Command(CommandType.SNOOZE, ids=(ID,), until=until)


def test_a_binary_frame_fits_as_many_ids_as_a_text_frame() -> None:
    most = (MAX_FRAME - len('{"type":"read","ids":[]}')) // len(f'"{ID}",')
    assert most <= MAX_ARRAY
    data = msgpack.packb({"type": "read", "ids": [RAW_ID] * most})
    assert len(data) <= MAX_FRAME
    assert len(decode_packed_command(data).ids) == most


NESTED = b"\x82\xa4type\xa4ping\xa1x"

HOSTILE = {
    "nothing": b"",
    "no map": b"\x90",
    "nil": b"\xc0",
    "cut off": b"\x81\xa4type",
    "two values": b"\x80\x80",
    "a byte that is never used": b"\xc1",
    "deep arrays": NESTED + b"\x91" * 16_000,
    "deep maps": NESTED + b"\x81\xa1x" * 5_000,
    "deep and long arrays": NESTED + b"\xdc\x01\xa4" * 5_000,
    "an array of 4 billion": NESTED + b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": NESTED + b"\xdf\xff\xff\xff\xff",
    "a string of 4 GiB": NESTED + b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": NESTED + b"\xc6\xff\xff\xff\xff",
    "an extension of 4 GiB": NESTED + b"\xc9\xff\xff\xff\xff\x05",
    "a number as a key": b"\x82\xa4type\xa4ping\x01\x01",
    "bytes as a key": b"\x82\xa4type\xa4ping\xc4\x01a\x01",
    "nil as a key": b"\x82\xa4type\xa4ping\xc0\x01",
    "an array as a key": b"\x82\xa4type\xa4ping\x90\x01",
    "a map as a key": b"\x82\xa4type\xa4ping\x80\x01",
    "a time that is none": NESTED + b"\xc7\x0c\xff" + b"\xff" * 12,
    "an array of too many": NESTED + b"\xdc\x01\xa5" + b"\xc0" * 421,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_anything_but_a_map_with_string_keys_is_malformed(data: bytes) -> None:
    with pytest.raises(BadCommand) as caught:
        decode_packed_command(data)
    assert (caught.value.code, caught.value.ref) == ("malformed", None)


@pytest.mark.parametrize(
    ("data", "code", "ref"),
    [
        (b"\x80", "unknown_command", None),
        (b"\x82\xa4type\xc4\x04ping\xa3ref\xa1a", "unknown_command", "a"),
        (b"\x82\xa4type\xd4\x05\x01\xa3ref\xa1a", "unknown_command", "a"),
        (b"\x82\xa3ref\xa1a\xa4type" + b"\x91" * 1000 + b"\x90", "unknown_command", "a"),
        (b"\x82\xa4type\xa4ping\xa3ref\xc4\x01a", "invalid_field", None),
        (b"\x82\xa4type\xa4ping\xa3ref\xd9\x41" + b"x" * 65, "invalid_field", None),
        (b"\x82\xa4type\xa3ack\xa3seq\xcf" + b"\xff" * 8, "invalid_field", None),
        (b"\x82\xa4type\xa3ack\xa3seq\xff", "invalid_field", None),
        (b"\x82\xa4type\xa3ack\xa3seq\xc3", "invalid_field", None),
        (b"\x82\xa4type\xa3ack\xa3seq\xcb\x7f\xf8" + b"\0" * 6, "invalid_field", None),
        (b"\x82\xa4type\xa3ack\xa3seq\xcb\x7f\xf0" + b"\0" * 6, "invalid_field", None),
        (b"\x82\xa4type\xa3ack\xa3seq\xd6\xff\0\0\0\1", "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\x90", "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\x91\xc4\x0f" + b"x" * 15, "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\x91\xc4\x11" + b"x" * 17, "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\x91\xd9\x24" + ID.encode(), "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\x91\xb0" + b"x" * 16, "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\xc4\x10" + RAW_ID, "invalid_field", None),
        (b"\x82\xa4type\xa4read\xa3ids\x81\xa1a\x01", "invalid_field", None),
        (b"\x82\xa4type\xa4auth\xa5token\xc4\x01t", "invalid_field", None),
    ],
    ids=shortly,
)
def test_a_field_of_the_wrong_type_is_refused_with_the_ref_of_its_command(
    data: bytes, code: str, ref: str | None
) -> None:
    with pytest.raises(BadCommand) as caught:
        decode_packed_command(data)
    assert (caught.value.code, caught.value.ref) == (code, ref)


def test_the_last_of_two_equal_keys_wins_as_in_json() -> None:
    twice = b"\x83\xa4type\xa3ack\xa3seq\x01\xa3seq\x02"
    assert decode_packed_command(twice) == decode_command('{"type":"ack","seq":1,"seq":2}')


def test_an_extension_type_in_an_unknown_field_is_ignored() -> None:
    assert decode_packed_command(NESTED + b"\xd4\x05\x01") == Command(CommandType.PING)


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80"], ids=["no start", "surrogate", "overlong"]
)
def test_a_string_that_is_not_utf_8_raises_a_unicode_error(text: bytes) -> None:
    for data in (
        NESTED + bytes([0xA0 | len(text)]) + text,
        b"\x81" + bytes([0xA0 | len(text)]) + text + b"\x01",
    ):
        with pytest.raises(UnicodeDecodeError):
            decode_packed_command(data)


def test_msgpack_is_imported_only_on_first_use() -> None:
    script = (
        "import sys, gateway.app; from gateway.protocol import messages; message = messages.ok('r');"
        "before = 'msgpack' in sys.modules; message.packed_frame; print(before, 'msgpack' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "False True\n"
