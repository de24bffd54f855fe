"""JSON and MessagePack: the bytes of messages and commands, the CPU to make them, and a post with either."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import msgpack

from benchmarks.audience import BODY, audience, content
from benchmarks.posting import POSTS, USERS, saturate
from benchmarks.report import Figures
from benchmarks.rounds import Load, Plan
from benchmarks.subjects import gateway
from gateway.protocol import messages
from gateway.protocol.commands import decode_command, decode_packed_command
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content, Counts, Item, encode_item
from gateway.protocol.wire import Message

TIMES = 2000
COUNTS = Counts(1234, 12, 3, 1200)
IDS = [f"01a22c54-c66f-7a71-b12e-{number:012}" for number in range(28)]
AT = 1_796_040_083_055
SHORT = Content(
    "", "Your parcel is on its way", None, "default", "normal", "/orders/7", dumps({"order": 7}), AT
)
TYPICAL = Content("", "00000007", BODY, "orders.shipped", "normal", None, dumps(content(7)["data"]), AT)


def _items(content: Content, number: int = 1) -> list[Item]:
    return [Item(content._replace(id=one), 1200, 1234) for one in IDS[:number]]


def _notification(item: Item) -> Message:
    return messages.notification(encode_item(item), 1234, COUNTS)


MESSAGES: dict[str, Callable[[int], Message]] = {
    "notification, short": lambda number: _notification(_items(SHORT)[0]._replace(seq=number)),
    "notification, typical": lambda number: _notification(_items(TYPICAL)[0]._replace(seq=number)),
    "changed, 28 items": lambda number: messages.changed(
        list(map(encode_item, _items(TYPICAL, 28))), number, COUNTS
    ),
    "hello": lambda number: messages.hello("ada", "dc758be510d0e1f3", COUNTS, 30, number),
    "live": lambda number: messages.live(COUNTS._replace(seq=number)),
}
COMMANDS: dict[str, dict[str, Any]] = {
    "ack": {"type": "ack", "seq": 1234},
    "read, 1 id": {"type": "read", "ids": IDS[:1], "ref": "r1"},
    "read, 28 ids": {"type": "read", "ids": IDS, "ref": "r1"},
}


def _each(work: Callable[[int], object], times: int) -> float:
    """Return the CPU of one call, in µs."""
    began = time.process_time()
    for number in range(times):
        work(number)
    return (time.process_time() - began) / times * 1e6


def _message(make: Callable[[int], Message], times: int) -> Figures:
    one = make(1)
    made = [make(number) for number in range(times)]
    return {
        "JSON, bytes": len(one.payload),
        "MessagePack, bytes": len(_payload(one.packed_frame)),
        "JSON, µs": _each(make, times),
        "MessagePack from it, µs": _each(lambda number: made[number].packed_frame, times),
    }


def _payload(frame: bytes) -> bytes:
    """Return what stands behind the header of a frame."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def _command(command: dict[str, Any], times: int) -> Figures:
    text = json.dumps(command, separators=(",", ":"))
    ids = {"ids": [UUID(one).bytes for one in command["ids"]]} if "ids" in command else {}
    data = msgpack.packb(command | ids)
    return {
        "JSON, bytes": len(text),
        "MessagePack, bytes": len(data),
        "JSON, µs": _each(lambda _: decode_command(text), times),
        "MessagePack, µs": _each(lambda _: decode_packed_command(data), times),
    }


async def encodings(plan: Plan) -> None:
    """Bytes and CPU of messages and commands in JSON and MessagePack, and posts to sockets of either."""
    times, posts = plan.size(TIMES), plan.size(POSTS)
    made = {name: [_message(make, times) for _ in range(plan.rounds)] for name, make in MESSAGES.items()}
    plan.report.add("Messages, encoded", made, ratios=False)
    read = {name: [_command(one, times) for _ in range(plan.rounds)] for name, one in COMMANDS.items()}
    plan.report.add("Commands, decoded", read, ratios=False)
    async with (
        gateway(plan.database) as ours,
        audience(ours, "json", USERS) as plain,
        audience(ours, "packed", USERS, packed=True) as packed,
    ):
        loads = {
            "JSON": Load(ours.server, partial(saturate, posts, plain)),
            "MessagePack": Load(ours.server, partial(saturate, posts, packed)),
        }
        figures = await plan.in_turn("encodings", loads)
    plan.report.add(f"POST + durable delivery at saturation: {posts} posts to {USERS} users", figures)
