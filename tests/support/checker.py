"""The judge of a history: what was attempted, what was answered, and what every device applied.

Load and fault tests write a `History` and ask `judge` for its complaints. It knows nothing of the gateway
but its contract, so it cannot share a mistake with it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

Json = dict[str, Any]


@dataclass
class Post:
    """One notification that was attempted, under one idempotency key. Its title is unique in the history.

    `status` is that of the last answer, None where none came; `ids` are the ids of all answers.
    """

    title: str
    to: tuple[str, ...]
    status: int | None = None
    ids: set[str] = field(default_factory=set)

    @property
    def accepted(self) -> bool:
        """Whether it was answered with a 2xx."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether it was answered with a 4xx."""
        return self.status is not None and 400 <= self.status < 500


@dataclass
class Inbox:
    """An inbox read afresh over REST, archived items too, and what was said with it."""

    sub: str
    seq: int
    unread: int
    unseen: int
    items: dict[str, Json]


class Connected(NamedTuple):
    """A device opened a socket after `since`."""

    since: int | None


class Received(NamedTuple):
    """A device got a message; `applied` is False where it dropped a `seq` that it had applied before."""

    message: Json
    applied: bool


class ReadAfresh(NamedTuple):
    """A device replaced what it knew with the inbox it read, as it stood at `seq`."""

    seq: int
    items: dict[str, Json]


Event = Connected | Received | ReadAfresh


@dataclass
class DeviceHistory:
    """What happened to one device, and what it ended up with. `items` keeps deleted ones too."""

    name: str
    sub: str
    events: list[Event] = field(default_factory=list)
    items: dict[str, Json] = field(default_factory=dict)
    seq: int = 0
    unread: int = 0
    unseen: int = 0

    def messages(self) -> Iterator[Json]:
        """Yield every message received."""
        for event in self.events:
            if isinstance(event, Received):
                yield event.message

    def ever_held(self) -> Iterator[Json]:
        """Yield every item in every state in which this device met it."""
        for event in self.events:
            if isinstance(event, Received):
                yield from items_of(event.message)
            elif isinstance(event, ReadAfresh):
                yield from event.items.values()


@dataclass
class History:
    """A whole run, after everything has come to rest.

    `deleted` are the items, by user and id, that a client has tried to delete: a device that begins later may
    never meet them. `from_log` says that sockets were fed from the log too, as those of other processes are:
    what is read there has the counts of that moment.
    """

    posts: list[Post]
    devices: list[DeviceHistory]
    inboxes: dict[str, Inbox]
    deleted: set[tuple[str, str]] = field(default_factory=set)
    from_log: bool = False


def items_of(message: Json) -> list[Json]:
    """Return the items that a message carries."""
    if message["type"] == "notification":
        return [message["notification"]]
    return list(message.get("items", ())) if message["type"] == "changed" else []


def judge(history: History) -> list[str]:
    """Return a complaint for each rule of the contract that the history breaks; none is a sound one."""
    rules = (
        _nothing_accepted_is_lost,
        _nothing_is_made_up,
        _nothing_refused_is_delivered,
        _numbers_rise_without_gap_or_repeat,
        _one_number_is_one_body,
        _one_attempt_is_one_notification,
        _counts_agree,
        _state_and_messages_make_the_inbox,
    )
    return [complaint for rule in rules for complaint in rule(history)]


def _nothing_accepted_is_lost(history: History) -> Iterator[str]:
    held = {device.name: {item["id"] for item in device.ever_held()} for device in history.devices}
    for post in history.posts:
        for sub, identifier in product(post.to, post.ids) if post.accepted else ():
            if (sub, identifier) in history.deleted:
                continue
            if identifier not in history.inboxes[sub].items:
                yield f"lost: {post.title!r} was answered {post.status} and is not in the inbox of {sub}"
            for device in history.devices:
                if device.sub == sub and identifier not in held[device.name]:
                    yield f"lost: {post.title!r} was answered {post.status}, never reached {device.name}"


def _everything_held(history: History) -> Iterator[tuple[str, str, Json]]:
    """Yield where, whose, and which, for each item that turned up anywhere."""
    for device in history.devices:
        for item in device.ever_held():
            yield device.name, device.sub, item
    for sub, inbox in history.inboxes.items():
        for item in inbox.items.values():
            yield f"the inbox of {sub}", sub, item


def _nothing_is_made_up(history: History) -> Iterator[str]:
    attempted = {post.title: post for post in history.posts}
    for where, sub, item in _everything_held(history):
        if item["title"] is None:
            continue
        post = attempted.get(item["title"])
        if post is None:
            yield f"made up: {where} has {item['title']!r}, which nobody posted"
        elif sub not in post.to:
            yield f"foreign: {where} has {item['title']!r}, which was for {', '.join(post.to)}"


def _nothing_refused_is_delivered(history: History) -> Iterator[str]:
    refused = {post.title: post.status for post in history.posts if post.refused}
    for where, _, item in _everything_held(history):
        if item["title"] in refused:
            yield f"refused: {where} has {item['title']!r}, which was answered {refused[item['title']]}"


def _numbers_rise_without_gap_or_repeat(history: History) -> Iterator[str]:
    for device in history.devices:
        yield from _sent_in_order(device)
        yield from _applied_once(device)


def _sent_in_order(device: DeviceHistory) -> Iterator[str]:
    """What one socket sends rises; from `live` on by exactly 1, until a `reset`."""
    last, live = 0, False
    for event in device.events:
        if isinstance(event, Connected):
            last, live = event.since or 0, False
        if not isinstance(event, Received):
            continue
        kind, seq = event.message["type"], int(event.message.get("seq", 0))
        if kind in {"live", "reset"}:
            live = kind == "live"
            last = seq
        elif kind in {"notification", "changed", "read"}:
            if seq <= last:
                yield f"order: {device.name} was sent {seq} after {last}"
            elif live and seq != last + 1:
                yield f"gap: {device.name} was sent {seq} after {last}, and was live"
            last = seq


def _applied_once(device: DeviceHistory) -> Iterator[str]:
    last = 0
    for event in device.events:
        if isinstance(event, ReadAfresh):
            last = event.seq
        elif isinstance(event, Received) and event.applied:
            seq = event.message["seq"]
            if seq <= last:
                yield f"repeated: {device.name} applied {seq} after {last}"
            last = seq


def _one_number_is_one_body(history: History) -> Iterator[str]:
    bodies: dict[tuple[str, str, int], str] = {}
    places: dict[tuple[str, int], str] = {}
    for where, sub, item in _everything_held(history):
        body = json.dumps(item, sort_keys=True)
        if bodies.setdefault((sub, item["id"], item["seq"]), body) != body:
            yield f"body: {where} has another {item['id']} at {item['seq']} of {sub}"
        if places.setdefault((sub, item["created_seq"]), item["id"]) != item["id"]:
            yield f"body: {where} has another item at the place {item['created_seq']} of {sub}"


def _one_attempt_is_one_notification(history: History) -> Iterator[str]:
    ids: dict[str, set[str]] = {post.title: set(post.ids) for post in history.posts}
    for _, _, item in _everything_held(history):
        if item["title"] is not None:
            ids.setdefault(item["title"], set()).add(item["id"])
    for title, found in ids.items():
        if len(found) > 1:
            yield f"twice: {title!r} became {len(found)} notifications"


def _counts_agree(history: History) -> Iterator[str]:
    for sub, inbox in history.inboxes.items():
        unread = sum(
            not (item["read_at"] or item["archived_at"] or item.get("snoozed_until"))
            for item in inbox.items.values()
        )
        if inbox.unread != unread:
            yield f"counts: the inbox of {sub} says {inbox.unread} unread and holds {unread}"
    said: dict[tuple[str, int], int] = {}
    for device in history.devices:
        inbox = history.inboxes[device.sub]
        if (device.unread, device.unseen) != (inbox.unread, inbox.unseen):
            pushed, fresh = (device.unread, device.unseen), (inbox.unread, inbox.unseen)
            yield f"counts: {device.name} was told {pushed} at last, a fresh read says {fresh}"
        for seq, unread in _exact_counts(device.events, from_memory=not history.from_log):
            if said.setdefault((device.sub, seq), unread) != unread:
                yield f"counts: {device.name} was told {unread} unread at {seq}, others were not"


def _exact_counts(events: Iterable[Event], *, from_memory: bool) -> Iterator[tuple[int, int]]:
    """Yield number and unread count of the messages whose counts are those at their number.

    What is read from the log, such as a replay, has old numbers with the counts of now; what is live is exact
    where it comes `from_memory`.
    """
    live = False
    for event in events:
        if not isinstance(event, Received):
            live = False
            continue
        kind = event.message["type"]
        live = (live or kind == "live") and kind != "reset"
        if (
            ((live and from_memory) or kind in {"hello", "reset"})
            and "seq" in event.message
            and "unread" in event.message
        ):
            yield event.message["seq"], event.message["unread"]


def _state_and_messages_make_the_inbox(history: History) -> Iterator[str]:
    for device in history.devices:
        inbox = history.inboxes[device.sub]
        if device.seq != inbox.seq:
            yield f"behind: {device.name} stands at {device.seq}, the log of {device.sub} at {inbox.seq}"
        mine = {key: _essence(item) for key, item in device.items.items() if not item["deleted_at"]}
        fresh = {key: _essence(item) for key, item in inbox.items.items()}
        for key in mine.keys() | fresh.keys():
            if mine.get(key) != fresh.get(key):
                yield f"state: {device.name} has {mine.get(key)}, a fresh read {fresh.get(key)}"


def _essence(item: Json) -> Json:
    """Return an item without the moments, which a `read` message does not tell."""
    return {**item, "read_at": bool(item["read_at"]), "archived_at": bool(item["archived_at"])}
