"""Any sequence of what senders and a user do to notifications, against a small model and against devices."""

import asyncio
import copy
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, select, update

from gateway.database.models import DELIVER, EXPIRE, WAKE, due_work, items, notifications
from tests.support.checker import DeviceHistory, History, Inbox, Json, Post, judge
from tests.support.clients import Device, Socket, User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving
from tests.support.waiting import until

T = TypeVar("T")

FAR = 100_000
"""Seconds until what no test waits for."""

numbers = st.integers(0, 1_000)
some = st.lists(numbers, min_size=1, max_size=4)
keys = st.sampled_from([None, None, "a", "b"])
categories = st.sampled_from(["default", "news", "offers"])
priorities = st.sampled_from(["normal", "normal", "urgent"])


@dataclass
class ModelItem:
    """The item of a notification in the user's inbox: its two numbers and its states."""

    created_seq: int
    seq: int
    read: bool = False
    archived: bool = False
    reason: str | None = None
    """Why it was deleted, or None while it is there."""
    snoozed: int | None = None
    """How late it wakes among those that sleep, or None."""

    @property
    def unread(self) -> bool:
        """Whether it counts as unread."""
        return not (self.read or self.archived or self.reason or self.snoozed)


@dataclass
class Sent:
    """A notification as its sender sees it, and the item that it has become."""

    id: str
    title: str
    state: str
    key: str | None = None
    expires: bool = False
    category: str = "default"
    priority: str = "normal"
    entered: bool | None = None
    """Whether it came to the user when it was delivered, or None if it never was."""
    item: ModelItem | None = None

    @property
    def there(self) -> ModelItem | None:
        """The item, unless it is deleted."""
        return None if self.item is None or self.item.reason else self.item


@dataclass
class Model:
    """The notifications for one user, and the inbox, as the contract describes them."""

    sent: list[Sent] = field(default_factory=list)
    muted: set[str] = field(default_factory=set)
    seq: int = 0
    seen: int = 0

    def schedule(self, one: Sent) -> None:
        """It waits, and takes the place of the one that waits with the same key."""
        for other in self.sent:
            if one.key is not None and other.key == one.key and other.state == "scheduled":
                other.state = "cancelled"
        self.sent.append(one)

    def deliver(self, one: Sent) -> None:
        """It enters unless it is muted, after the earlier ones of its key that are not archived have left."""
        one.state = "delivered"
        one.entered = one.category not in self.muted or one.priority == "urgent"
        if not one.entered:
            return
        if one.key is not None:
            earlier = [other.there for other in self.sent if other.key == one.key]
            self.delete([item for item in earlier if item is not None and not item.archived], "replaced")
        self.seq += 1
        one.item = ModelItem(self.seq, self.seq)

    def touch(self, one: Sent) -> None:
        """Its item takes the next number, if it is there."""
        if one.there is not None:
            self.seq += 1
            one.there.seq = self.seq

    def reenter(self, one: Sent) -> None:
        """Its item enters again, at the top and unread, if it is there."""
        if one.there is not None:
            self.seq += 1
            one.item = ModelItem(self.seq, self.seq)

    def end(self, one: Sent, state: str) -> None:
        """Nobody has it any more."""
        one.state = state
        if one.there is not None:
            self.delete([one.there], state)

    def set(self, chosen: list[ModelItem], **states: bool | int | None) -> None:
        """Those that are not so already change, all under the next number; if there are any.

        What is archived is not snoozed.
        """
        if states.get("archived"):
            states["snoozed"] = None
        targets = [
            item
            for item in _distinct(chosen)
            if not item.reason and any(getattr(item, name) != value for name, value in states.items())
        ]
        self.seq += bool(targets)
        for item in targets:
            item.seq = self.seq
            for name, value in states.items():
                setattr(item, name, value)

    def delete(self, chosen: list[ModelItem], reason: str) -> None:
        """Those that are there become tombstones, all under the next number; if there are any."""
        targets = [item for item in _distinct(chosen) if not item.reason]
        self.seq += bool(targets)
        for item in targets:
            item.seq, item.reason, item.snoozed = self.seq, reason, None

    @property
    def entered(self) -> list[Sent]:
        """Those that have an item, or had one."""
        return [one for one in self.sent if one.item is not None]

    def in_state(self, *states: str) -> list[Sent]:
        """Those that are in one of these states."""
        return [one for one in self.sent if one.state in states]

    @property
    def unread(self) -> int:
        """How many are unread."""
        return sum(one.item.unread for one in self.entered if one.item)

    @property
    def unseen(self) -> int:
        """How many are unread and beyond the seen mark."""
        return sum(one.item.unread and one.item.created_seq > self.seen for one in self.entered if one.item)

    def pages(self) -> list[tuple[Any, ...]]:
        """Return the inbox as its pages show it, newest first, then the archived and the snoozed items."""
        there = [(one, one.there) for one in self.sent if one.there is not None]
        newest = sorted(there, key=lambda pair: -pair[1].created_seq)
        soonest = sorted(there, key=lambda pair: (pair[1].snoozed or 0, pair[1].created_seq))
        return [
            (one.id, one.title, item.created_seq, item.seq, item.read, item.archived, bool(item.snoozed))
            for those, archived, snoozed in (
                (newest, {False}, False),
                (newest, {True}, False),
                (soonest, {False, True}, True),
            )
            for one, item in those
            if item.archived in archived and bool(item.snoozed) is snoozed
        ]

    def log(self) -> list[tuple[Any, ...]]:
        """Return the last change of each item, oldest first."""
        changes = [
            (one.item.seq, one.item.created_seq, one.id, one.item.reason) for one in self.entered if one.item
        ]
        return sorted(changes)


def _distinct(chosen: list[ModelItem]) -> list[ModelItem]:
    return list({id(item): item for item in chosen}.values())


class LifeMachine(RuleBasedStateMachine):
    """Does over REST and a socket what it does to the model, and looks at all of it after every step.

    One device is there all the time. After each step another one resumes from where the first once was.
    """

    def __init__(self, server: LocalServer, runner: asyncio.Runner, sub: str) -> None:
        super().__init__()
        self._runner = runner
        self._server = server
        self._stack = AsyncExitStack()
        self._titles = (f"title {number}" for number in count(1))
        self._steps = count(1)
        self._turns = count()
        self._times = count(1)
        self._used: set[str] = set()
        self.model = Model()
        self.user: User = self.run(server.user(sub))
        self.device = Device(self.user, "the device")
        self.past: list[DeviceHistory] = []
        self.socket: Socket = self.run(self._connect())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the gateway and its clients go on until this is done."""
        return self._runner.run(work)

    async def _connect(self) -> Socket:
        socket = await self._stack.enter_async_context(self.user.socket(since=self.device.history.seq))
        for message in await socket.until("live"):
            await self.device.take(message)
        return socket

    def _title(self) -> str:
        title = next(self._titles)
        self._used.add(title)
        return title

    # --- what senders do ---------------------------------------------------------------------------------

    def _post(self, key: str | None, expires: bool, category: str, priority: str, **fields: Any) -> Sent:
        title = self._title()
        fields |= {"category": category, "priority": priority}
        if key is not None:
            fields["collapse_key"] = key
        if expires:
            fields["expires_at"] = moment(2 * FAR)
        posted = self.run(self._server.service.notify(self.user.sub, title, **fields))
        return Sent(posted["id"], title, posted["state"], key, expires, category, priority)

    @rule(key=keys, expires=st.booleans(), category=categories, priority=priorities)
    def post(self, key: str | None, expires: bool, category: str, priority: str) -> None:
        """A notification comes in."""
        one = self._post(key, expires, category, priority)
        assert one.state == "delivered"
        self.model.sent.append(one)
        self.model.deliver(one)

    @rule(key=keys, expires=st.booleans(), category=categories, priority=priorities)
    def schedule(self, key: str | None, expires: bool, category: str, priority: str) -> None:
        """A notification will come in."""
        one = self._post(key, expires, category, priority, deliver_at=moment(FAR))
        assert one.state == "scheduled"
        self.model.schedule(one)

    @precondition(lambda self: self.model.in_state("scheduled"))
    @rule(pick=numbers)
    def hasten(self, pick: int) -> None:
        """Its sender wants a scheduled one to come now."""
        one = self._one_of(pick, "scheduled")
        assert self._edit(one, deliver_at=moment(-1)) == 200
        self._wait_for(one, "delivered")
        self.model.deliver(one)

    @precondition(lambda self: self.model.in_state("scheduled"))
    @rule(picks=some)
    def become_due(self, picks: list[int]) -> None:
        """It is time for some, in this order."""
        chosen = list({one.id: one for one in (self._one_of(pick, "scheduled") for pick in picks)}.values())
        self._move(chosen, DELIVER)
        for one in chosen:
            self._wait_for(one, "delivered")
            self.model.deliver(one)

    @precondition(lambda self: self.model.sent)
    @rule(pick=numbers, renotify=st.booleans())
    def edit(self, pick: int, renotify: bool) -> None:
        """A sender edits one, whatever its state."""
        one = self.model.sent[pick % len(self.model.sent)]
        title = self._title()
        status = self._edit(one, title=title, renotify=renotify)
        if one.state not in {"scheduled", "delivered"}:
            assert status == 409
            return
        assert status == 200
        one.title = title
        if one.state == "delivered":
            (self.model.reenter if renotify else self.model.touch)(one)

    @precondition(lambda self: self.model.sent)
    @rule(pick=numbers, scheduled=st.booleans())
    def take_back(self, pick: int, scheduled: bool) -> None:
        """A sender cancels or unsends one, whatever its state, or only if it is scheduled."""
        one = self.model.sent[pick % len(self.model.sent)]
        headers = {"If-Match": '"scheduled"'} if scheduled else {}
        answer = self.run(self._server.service.delete(f"/v1/notifications/{one.id}", headers=headers))
        if scheduled and one.entered is not None:
            assert answer.status_code == 412, answer.text
            return
        wanted = "cancelled" if one.entered is None else "unsent"
        assert (answer.status_code, answer.json()["state"]) == (200, wanted)
        if one.state != "expired":
            self.model.end(one, wanted)

    @precondition(lambda self: self.can_expire())
    @rule(picks=some)
    def expire(self, picks: list[int]) -> None:
        """It is time for some to go, whether they have been delivered or not."""
        those = self.can_expire()
        chosen = list({one.id: one for one in (those[pick % len(those)] for pick in picks)}.values())
        self._move(chosen, EXPIRE)
        for one in chosen:
            self._wait_for(one, "expired")
            self.model.end(one, "expired")

    def can_expire(self) -> list[Sent]:
        """Return those that have a time at which they expire."""
        return [one for one in self.model.in_state("scheduled", "delivered") if one.expires]

    def _one_of(self, pick: int, state: str) -> Sent:
        those = self.model.in_state(state)
        return those[pick % len(those)]

    def _edit(self, one: Sent, **members: Any) -> int:
        answer = self.run(self._server.service.patch(f"/v1/notifications/{one.id}", json=members))
        return answer.status_code

    def _wait_for(self, one: Sent, state: str) -> None:
        async def reached() -> bool:
            answer = await self._server.service.get(f"/v1/notifications/{one.id}")
            return bool(answer.json()["state"] == state)

        self.run(until(reached, f"{one} is {state}"))

    def _move(self, chosen: list[Sent], kind: int) -> None:
        """Let this work have been due for a while, in this order."""
        column = {DELIVER: "deliver_at", EXPIRE: "expires_at"}.get(kind, "")
        now = int(time.time() * 1000)

        def move(connection: Connection) -> None:
            for number, one in enumerate(chosen):
                due_at = now - len(chosen) + number
                row = notifications.c.uuid == one.id
                key = select(notifications.c.id).where(row).scalar_subquery()
                if kind == WAKE:
                    mine = items.c.notification_id == key
                    connection.execute(update(items).where(mine).values(snoozed_until=due_at))
                else:
                    connection.execute(update(notifications).where(row).values({column: due_at}))
                work = (due_work.c.notification_id == key, due_work.c.kind == kind)
                connection.execute(update(due_work).where(*work).values(due_at=due_at))

        self.run(self._server.state.database.write(move))

    # --- what the user does ------------------------------------------------------------------------------

    def chosen(self, picks: list[int]) -> list[Sent]:
        """Turn any numbers into notifications that have entered."""
        those = self.model.entered
        return [those[pick % len(those)] for pick in picks]

    @precondition(lambda self: self.model.entered)
    @rule(picks=some, states=st.sampled_from(["read", "unread", "archive"]))
    def mark(self, picks: list[int], states: str) -> None:
        """Some are read, unread or archived."""
        chosen = self.chosen(picks)
        self._command(type=states, ids=[one.id for one in chosen])
        changes = {"read": {"read": True}, "unread": {"read": False}, "archive": {"archived": True}}
        self.model.set([one.item for one in chosen if one.item], **changes[states])

    @precondition(lambda self: self.model.entered)
    @rule(
        pick=numbers, states=st.dictionaries(st.sampled_from(["read", "archived"]), st.booleans(), min_size=1)
    )
    def patch(self, pick: int, states: dict[str, bool]) -> None:
        """One changes one or both of its states."""
        (one,) = self.chosen([pick])
        answer = self.run(self.user.patch(f"/v1/inbox/{one.id}", json=states))
        assert answer.status_code == (200 if one.there else 404), answer.text
        self.model.set([one.item] if one.item else [], **states)

    @precondition(lambda self: self.model.entered)
    @rule(picks=some)
    def delete(self, picks: list[int]) -> None:
        """Some are deleted."""
        chosen = self.chosen(picks)
        self._command(type="delete", ids=[one.id for one in chosen])
        self.model.delete([one.item for one in chosen if one.item], "user")

    @rule(up_to=numbers)
    def read_up_to(self, up_to: int) -> None:
        """All that entered up to a number are read."""
        up_to = up_to % (self.model.seq + 2)
        self._command(type="read", up_to=up_to)
        those = [one.item for one in self.model.entered if one.item and one.item.created_seq <= up_to]
        self.model.set([item for item in those if not item.snoozed], read=True)

    @precondition(lambda self: self.model.entered)
    @rule(picks=some, begins=st.booleans())
    def snooze(self, picks: list[int], begins: bool) -> None:
        """Some are put off, later than all that sleep, or brought back as they were."""
        chosen = self.chosen(picks)
        self._command(type="snooze", ids=[one.id for one in chosen], until=moment(FAR) if begins else None)
        until = next(self._times) if begins else None
        self.model.set([one.item for one in chosen if one.item], snoozed=until)

    @precondition(lambda self: self.asleep())
    @rule(picks=some)
    def wake(self, picks: list[int]) -> None:
        """It is time for some that sleep, in this order."""
        those = self.asleep()
        chosen = list({one.id: one for one in (those[pick % len(those)] for pick in picks)}.values())
        self._move(chosen, WAKE)
        for one in chosen:
            self.run(until(partial(self._is_awake, one), f"{one} is awake"))
            self.model.reenter(one)

    def asleep(self) -> list[Sent]:
        """Return those that are snoozed."""
        return [one for one in self.model.entered if one.there is not None and one.there.snoozed]

    async def _is_awake(self, one: Sent) -> bool:
        return (await self.user.get(f"/v1/inbox/{one.id}")).json()["snoozed_until"] is None

    @rule(muted=st.sets(st.sampled_from(["news", "offers"])))
    def mute(self, muted: set[str]) -> None:
        """The user wants no more of some categories. What is there stays."""
        wanted = {"categories": {name: {"muted": True} for name in muted}}
        answer = self.run(self.user.request("PUT", "/v1/inbox/preferences", json=wanted))
        assert answer.status_code == 200, answer.text
        self.model.muted = muted

    @rule(up_to=numbers)
    def see(self, up_to: int) -> None:
        """The badge was seen."""
        up_to = up_to % (self.model.seq + 2)
        self._command(type="seen", up_to=up_to)
        self.model.seen = max(self.model.seen, min(up_to, self.model.seq))

    @rule()
    def reconnect(self) -> None:
        """The device loses its connection and resumes."""
        self.run(self._stack.aclose())
        self.socket = self.run(self._connect())

    def _command(self, **command: Any) -> None:
        async def ask() -> None:
            messages = await self.socket.ask_all(**command)
            assert messages[-1]["type"] == "ok", messages[-1]
            for message in messages:
                await self.device.take(message)

        self.run(ask())

    # --- what must hold ----------------------------------------------------------------------------------

    @invariant()
    def everybody_has_the_model(self) -> None:
        """A fresh read, the device, one that resumes and the log have the same items and counts."""
        self.run(self._look())

    async def _look(self) -> None:
        fresh = await self.user.whole_inbox()
        # What the schedule commits can be read before the sockets have it.
        while self.device.history.seq < fresh.seq:
            await self.device.take(await self.socket.receive())
        for message in await self.socket.said_so_far():
            await self.device.take(message)
        wanted = (self.model.seq, self.model.unread, self.model.unseen)
        assert (fresh.seq, fresh.unread, fresh.unseen) == wanted
        assert [_states(item) for item in fresh.items.values()] == self.model.pages()
        await self._look_at_the_log()
        await self._look_at_one_as_its_sender()
        resumed = await self._resumed()
        self._judge(fresh, [self.device.history, resumed])
        if not self.past or self.past[-1].seq < self.device.history.seq:
            self.past.append(_at_rest(self.device.history))

    async def _look_at_the_log(self) -> None:
        answer = await self.user.get("/v1/inbox/changes", params={"since": 0, "limit": 200})
        assert [
            (item["seq"], item["created_seq"], item["id"], item["deleted_reason"])
            for item in answer.json()["items"]
        ] == self.model.log()

    async def _look_at_one_as_its_sender(self) -> None:
        """Each in turn: of one that was muted nobody has been reached."""
        if not self.model.sent:
            return
        one = self.model.sent[next(self._turns) % len(self.model.sent)]
        answer = (await self._server.service.get(f"/v1/notifications/{one.id}")).json()
        counts = tuple(answer[name] for name in ("state", "recipients", "reached", "muted", "read"))
        read = one.item is not None and one.item.read
        assert counts == (one.state, 1, one.entered is True, one.entered is False, read)

    async def _resumed(self) -> DeviceHistory:
        """Return what a device has that was away since some earlier moment, or since ever."""
        device = Device(self.user, "one that was away")
        earlier = next(self._steps) * 7 % (len(self.past) + 1)
        if earlier:
            device.history = copy.deepcopy(self.past[earlier - 1])
        async with self.user.socket(since=device.history.seq) as socket:
            for message in await socket.until("live"):
                await device.take(message)
        device.history.events.clear()
        return device.history

    def _judge(self, fresh: Inbox, devices: list[DeviceHistory]) -> None:
        posts = [Post(title, (self.user.sub,)) for title in self._used]
        complaints = judge(History(posts, devices, {self.user.sub: fresh}))
        assert complaints == []

    def teardown(self) -> None:
        """Close the socket."""
        self.run(self._stack.aclose())


def _at_rest(history: DeviceHistory) -> DeviceHistory:
    """Return a copy of what a device has, without how it came to it."""
    return DeviceHistory(
        "one that was away",
        history.sub,
        [],
        copy.deepcopy(history.items),
        history.seq,
        history.unread,
        history.unseen,
    )


def _states(item: Json) -> tuple[Any, ...]:
    read, archived = item["read_at"] is not None, item["archived_at"] is not None
    snoozed = item["snoozed_until"] is not None
    return (item["id"], item["title"], item["created_seq"], item["seq"], read, archived, snoozed)


def moment(seconds: float) -> str:
    """Return a time so many seconds ahead."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the schedule look at once for work whose times a test has set, and a post replace all of a key."""
    monkeypatch.setattr("gateway.jobs.schedule.TICK_SECONDS", 0.01)
    monkeypatch.setattr("gateway.store.collapse_keys.MAX_ITEMS", 1_000)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("examples", [7, pytest.param(300, marks=pytest.mark.soak)])
def test_any_life_leaves_the_sender_the_inbox_and_the_devices_alike(database_url: str, examples: int) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(serving(settings_for(database_url))))
        users = iter(range(1_000_000))
        try:
            run_state_machine_as_test(
                lambda: LifeMachine(server, runner, f"user {next(users)}"),  # type: ignore[arg-type] # a factory will do
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
