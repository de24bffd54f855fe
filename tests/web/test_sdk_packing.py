"""The MessagePack of the SDK beside that of a library: each message read, each command written."""

import json
from pathlib import Path
from typing import Any

import msgpack

from gateway.protocol import messages
from gateway.protocol.commands import BadCommand, decode_command, decode_packed_command
from gateway.protocol.encoding import dumps
from gateway.protocol.items import MAX_SEQ, Content, Counts, Item, encode_item
from gateway.protocol.wire import Message
from tests.web.test_sdk import SDK, run_node

ID = "01936f00-0000-7000-8000-0000000000FF"
COUNTS = Counts(2**31, 200, 70_000, 0)
LENGTHS = (0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536)
NUMBERS = (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 1, 2**53 + 1, 2**63, 2**64 - 1)
DATA: dict[str, Any] = {
    "numbers": [*NUMBERS, *(-number for number in NUMBERS[1:-1]), 10**30, -(2**63)],
    "floats": [0.5, -1.5, 1e300, 5e-324, 3.0],
    "others": [None, True, False, {}, [], "é😀\u2028\0", {"__proto__": 1, "id": "x", "created_at": 7}],
    "texts": ["x" * length for length in LENGTHS] + ["é" * 40_000],
    "lists": [[1] * length for length in LENGTHS],
    "maps": [{str(number): number for number in range(length)} for length in LENGTHS],
}
COMMANDS: tuple[dict[str, Any], ...] = (
    {"type": "ping"},
    {"type": "ping", "ref": "é😀"},
    *({"type": "ack", "seq": number} for number in (*NUMBERS[:11], -1, 1.5, 2**60)),
    {"type": "read", "ids": [ID]},
    {"type": "archive", "ids": [ID.lower()] * 200, "ref": "r"},
    {"type": "delete", "ids": []},
    {"type": "delete", "ids": [ID, "nonsense"]},
    {"type": "unread", "ids": "nonsense"},
    {"type": "seen", "up_to": 7},
    {"type": "auth", "token": "x" * 9000},
    {"type": "act", "id": ID, "action": "reply", "text": "é😀", "ref": "r"},
    {"type": "act", "id": ID, "action": "yes"},
    {"type": "act", "id": "nonsense", "action": "yes"},
    {"type": "snooze", "ids": [ID], "until": None},
    {"type": "snooze", "ids": [ID], "until": "2027-01-01T09:00:00.000Z", "ref": "r"},
)

SCRIPT = """
import { readFileSync } from 'node:fs';
import { packCommand, unpackMessage } from MODULE;
const { messages, commands } = JSON.parse(readFileSync(GIVEN));
const bytes = (hex) => Uint8Array.from(hex.match(/../g), (two) => parseInt(two, 16)).buffer;
const same = messages.map(([hex, text]) => (
  JSON.stringify(unpackMessage(bytes(hex))) === JSON.stringify(JSON.parse(text))));
const packed = commands.map((text) => Buffer.from(packCommand(JSON.parse(text))).toString('hex'));
console.log(JSON.stringify({ same, packed }));
"""


def corpus() -> list[Message]:
    """Return one message of each kind, and some with all that `data` may hold."""
    contents = [
        Content(ID.lower(), "T", "b\n", "c", "low", "/x", dumps({name: DATA[name]}), 7) for name in DATA
    ]
    items = [encode_item(Item(content, 5, 6, 1_795_167_000_007, 0)) for content in contents]
    content = contents[0]._replace(
        icon="/i.png", actions='[{"id":"yes","label":"Yes","reply":true}]', expires_at=8, edited_at=9
    )
    answer = '{"action":"yes","text":"é","at":"2026-11-30T12:01:23.055Z"}'
    items.append(encode_item(Item(content, 5, 6, 0, snoozed_until=1_900_000_000_000, answer=answer)))
    gone = encode_item(Item(contents[0], MAX_SEQ, MAX_SEQ, deleted_at=253_402_300_799_999))
    return [
        messages.hello("é" * 255, "e", COUNTS, 30, 1_800_000_000),
        messages.hello("ada", "e", COUNTS, 0.5, 0),
        *(messages.notification(item, 6, COUNTS) for item in items),
        messages.notification(items[0], 6, COUNTS, alert=False),
        messages.changed([*items[:2], items[-1], gone], 6, COUNTS),
        messages.changed([gone] * 28, 6, COUNTS),
        messages.changed([], 6, COUNTS),
        messages.read_up_to(2**53, 7, COUNTS),
        messages.seen(COUNTS),
        messages.reset("e", COUNTS),
        messages.live(COUNTS),
        messages.heartbeat(COUNTS),
        messages.token_expiring(1_800_000_000),
        messages.ok("r"),
        messages.error("malformed", "Détail"),
    ]


def payload(frame: bytes) -> bytes:
    """Return what stands behind the header of a server's frame."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def outcome(decode: Any, frame: str | bytes) -> Any:
    try:
        return decode(frame)
    except BadCommand as refused:
        return refused.code, refused.detail, refused.ref


def test_the_sdk_packs_and_unpacks_like_the_gateway_and_the_msgpack_library(tmp_path: Path) -> None:
    made = corpus()
    given = {
        "messages": [(payload(one.packed_frame).hex(), one.payload.decode()) for one in made],
        "commands": [json.dumps(command) for command in COMMANDS],
    }
    (tmp_path / "given.json").write_text(json.dumps(given))
    module = json.dumps(Path(str(SDK)).joinpath("packing.js").as_uri())
    source = json.dumps(str(tmp_path / "given.json"))
    script = SCRIPT.replace("MODULE", module).replace("GIVEN", source)
    code, said = run_node("--input-type=module", "--eval", script)
    assert code == 0, said
    answer = json.loads(said)
    assert answer["same"] == [True] * len(made)
    for command, packed in zip(COMMANDS, answer["packed"], strict=True):
        data = bytes.fromhex(packed)
        assert set(msgpack.unpackb(data)) == set(command)
        assert outcome(decode_packed_command, data) == outcome(decode_command, json.dumps(command)), command
