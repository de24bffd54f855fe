"""Any sequence of operations on an inbox, against a small model and against a device that follows."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import astuple, dataclass, replace
from typing import Any, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.database.database import LockingDatabase
from gateway.jobs.schedule import Schedule
from gateway.protocol.times import now_ms, timestamp
from tests.support.actions import set_actions
from tests.support.checker import History, Json, Post, judge
from tests.support.clients import Device, Socket, User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving

T = TypeVar("T")

numbers = st.integers(0, 1_000)
some = st.lists(numbers, min_size=1, max_size=5)


@dataclass
class ModelItem:
    """What an item is: where it entered, its last change, its states, and which action answered it."""

    id: str
    title: str
    created_seq: int
    seq: int
    read: bool = False
    archived: bool = False
    deleted: bool = False
    snoozed: str | None = None
    answer: str | None = None

    @property
    def unread(self) -> bool:
        """Whether it counts as unread."""
        return not (self.read or self.archived or self.deleted or self.snoozed)


class Model:
    """An inbox as the contract describes it."""

    def __init__(self) -> None:
        self.items: list[ModelItem] = []
        self.muted: set[str] = set()
        self.seq = 0
        self.seen = 0

    def add(self, identifier: str, title: str) -> None:
        """A new notification takes the next number."""
        self.seq += 1
        self.items.append(ModelItem(identifier, title, self.seq, self.seq))

    def set(self, chosen: list[ModelItem], **states: bool | str | None) -> None:
        """Those that are not so already change, all under the next number; if there are any.

        What is archived or deleted is not snoozed.
        """
        if states.get("archived") or states.get("deleted"):
            states["snoozed"] = None
        targets = {
            id(item): item
            for item in chosen
            if not item.deleted and any(getattr(item, name) != value for name, value in states.items())
        }
        self.seq += bool(targets)
        for item in targets.values():
            item.seq = self.seq
            for name, value in states.items():
                setattr(item, name, value)

    def enter_again(self, item: ModelItem) -> None:
        """What was snoozed comes as a new one."""
        self.seq += 1
        self.items.remove(item)
        self.items.append(
            replace(item, created_seq=self.seq, seq=self.seq, read=False, archived=False, snoozed=None)
        )

    @property
    def unread(self) -> int:
        """How many are unread."""
        return sum(item.unread for item in self.items)

    @property
    def unseen(self) -> int:
        """How many are unread and beyond the seen mark."""
        return sum(item.unread and item.created_seq > self.seen for item in self.items)


class InboxMachine(RuleBasedStateMachine):
    """Does to one user's inbox over REST and the socket what it does to the model."""

    def __init__(self, server: LocalServer, runner: asyncio.Runner, sub: str) -> None:
        super().__init__()
        self._runner = runner
        self._server = server
        self._stack = AsyncExitStack()
        self.model = Model()
        self.noon = now_ms()
        self.user: User = self.run(server.user(sub))
        self.device = Device(self.user, "the device")
        self.socket: Socket = self.run(self._connect())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the gateway and its clients go on until this is done."""
        return self._runner.run(work)

    async def _connect(self) -> Socket:
        socket = await self._stack.enter_async_context(self.user.socket(since=self.device.history.seq))
        for message in await socket.until("live"):
            await self.device.take(message)
        return socket

    def chosen(self, picks: list[int]) -> list[ModelItem]:
        """Turn any numbers into items that there are."""
        return [self.model.items[pick % len(self.model.items)] for pick in picks]

    async def _reach(self, method: str, path: str, **options: Any) -> int:
        answer = await self.user.request(method, f"/v1/inbox/{path}", **options)
        assert answer.status_code < 500, answer.text
        return answer.status_code

    @rule(
        number=st.integers(1, 3),
        category=st.sampled_from(["news", "offers"]),
        priority=st.sampled_from(["normal", "normal", "urgent"]),
    )
    def post(self, number: int, category: str, priority: str) -> None:
        """Some notifications come in, in one batch, unless their category is muted."""
        fields = {"category": category, "priority": priority}
        ids = self.run(self._server.service.notify_many(self.user.sub, number, **fields))
        if category not in self.model.muted or priority == "urgent":
            for identifier, title in zip(ids, "123", strict=False):
                self.model.add(identifier, title)

    @rule(muted=st.sets(st.sampled_from(["news", "offers"])))
    def mute(self, muted: set[str]) -> None:
        """The user wants no more of some categories. What is there stays."""
        wanted = {"categories": {name: {"muted": True} for name in muted}}
        answer = self.run(self.user.request("PUT", "/v1/inbox/preferences", json=wanted))
        assert answer.status_code == 200, answer.text
        self.model.muted = muted

    @precondition(lambda self: self.model.items)
    @rule(picks=some, command=st.booleans())
    def read(self, picks: list[int], command: bool) -> None:
        """Some are read."""
        chosen = self.chosen(picks)
        ids = [item.id for item in chosen]
        if command:
            self._command(type="read", ids=ids)
        else:
            assert self.run(self._reach("POST", "read", json={"ids": ids})) == 200
        self.model.set(chosen, read=True)

    @precondition(lambda self: self.model.items)
    @rule(picks=some)
    def unread(self, picks: list[int]) -> None:
        """Some are marked unread."""
        chosen = self.chosen(picks)
        self._command(type="unread", ids=[item.id for item in chosen])
        self.model.set(chosen, read=False)

    @precondition(lambda self: self.model.items)
    @rule(picks=some)
    def archive(self, picks: list[int]) -> None:
        """Some are archived."""
        chosen = self.chosen(picks)
        self._command(type="archive", ids=[item.id for item in chosen])
        self.model.set(chosen, archived=True)

    @precondition(lambda self: self.model.items)
    @rule(
        pick=numbers, states=st.dictionaries(st.sampled_from(["read", "archived"]), st.booleans(), min_size=1)
    )
    def patch(self, pick: int, states: dict[str, bool]) -> None:
        """One changes one or both of its states."""
        (item,) = self.chosen([pick])
        status = self.run(self._reach("PATCH", item.id, json=states))
        assert status == (404 if item.deleted else 200)
        self.model.set([item], **states)

    @precondition(lambda self: self.model.items)
    @rule(picks=some, command=st.booleans())
    def delete(self, picks: list[int], command: bool) -> None:
        """Some are deleted."""
        chosen = self.chosen(picks if command else picks[:1])
        if command:
            self._command(type="delete", ids=[item.id for item in chosen])
        else:
            assert self.run(self._reach("DELETE", chosen[0].id)) == 204
        self.model.set(chosen, deleted=True)

    @rule(up_to=numbers, command=st.booleans())
    def read_up_to(self, up_to: int, command: bool) -> None:
        """All that entered up to a number are read."""
        up_to = up_to % (self.model.seq + 2)
        if command:
            self._command(type="read", up_to=up_to)
        else:
            assert self.run(self._reach("POST", "read", json={"up_to": up_to})) == 200
        there = [item for item in self.model.items if item.created_seq <= up_to and not item.snoozed]
        self.model.set(there, read=True)

    @precondition(lambda self: self.model.items)
    @rule(picks=some, hours=st.none() | st.integers(1, 3), command=st.booleans())
    def snooze(self, picks: list[int], hours: int | None, command: bool) -> None:
        """Some are snoozed, or their snooze is ended."""
        until = None if hours is None else timestamp(self.noon + hours * 3_600_000)
        chosen = self.chosen(picks if command else picks[:1])
        if command:
            self._command(type="snooze", ids=[item.id for item in chosen], until=until)
        else:
            status = self.run(self._reach("PATCH", chosen[0].id, json={"snoozed_until": until}))
            assert status == (404 if chosen[0].deleted else 200)
        self.model.set(chosen, snoozed=until)

    @rule(hours=st.integers(1, 3))
    def wake(self, hours: int) -> None:
        """The clock is set to a time at which some of what is snoozed is due, and back."""
        now = self.noon + hours * 3_600_000
        state = self._server.state
        writer, clock = state.writer, state.writer.clock
        writer.clock = lambda: now / 1000
        try:
            self.run(Schedule(cast("LockingDatabase", state.database), writer, writer.clock).work())
        finally:
            writer.clock = clock
        woken = [item for item in self.model.items if item.snoozed and item.snoozed <= timestamp(now)]
        there = {item["id"]: item for item in self.run(self.user.inbox(limit=200))["items"]} if woken else {}
        # Those of one moment enter in any order.
        for item in sorted(woken, key=lambda item: (item.snoozed, there[item.id]["created_seq"])):
            self.model.enter_again(item)

    @precondition(lambda self: self.model.items)
    @rule(pick=numbers, command=st.booleans())
    def act(self, pick: int, command: bool) -> None:
        """One is answered, if it has no answer yet."""
        (item,) = self.chosen([pick])
        self.run(self._server.state.database.write(set_actions, item.id))
        refusal = 404 if item.deleted else 409 if item.answer else 200
        if command:
            told = self._ask(type="act", id=item.id, action="yes")
            assert told.get("code") == {404: "not_found", 409: "already_answered"}.get(refusal)
        else:
            assert self.run(self._reach("POST", f"{item.id}/actions/yes")) == refusal
        if refusal == 200:
            self.model.set([item], read=True, answer="yes")

    @rule(up_to=numbers)
    def see(self, up_to: int) -> None:
        """The badge was seen."""
        up_to = up_to % (self.model.seq + 2)
        assert self.run(self._reach("POST", "seen", json={"up_to": up_to})) == 200
        self.model.seen = max(self.model.seen, min(up_to, self.model.seq))

    @rule()
    def reconnect(self) -> None:
        """The device loses its connection and resumes."""
        self.run(self._stack.aclose())
        self.socket = self.run(self._connect())

    def _command(self, **command: Any) -> None:
        told = self._ask(**command)
        assert told["type"] == "ok", told

    def _ask(self, **command: Any) -> Json:
        async def ask() -> Json:
            messages = await self.socket.ask_all(**command)
            for message in messages:
                await self.device.take(message)
            return messages[-1]

        return self.run(ask())

    @invariant()
    def the_inbox_is_the_model(self) -> None:
        """A fresh read shows what the model has, in its order, with its counts."""
        fresh = self.run(self.user.whole_inbox())
        assert (fresh.seq, fresh.unread, fresh.unseen) == (
            self.model.seq,
            self.model.unread,
            self.model.unseen,
        )
        there = [item for item in self.model.items if not item.deleted]
        for archived in (False, True):
            page = self.run(self.user.inbox(limit=200, archived=str(archived).lower()))
            assert [_states(item) for item in page["items"]] == [
                astuple(item) for item in reversed(there) if item.archived == archived and not item.snoozed
            ]
        page = self.run(self.user.inbox(limit=200, snoozed="true"))
        soonest = sorted(there, key=lambda item: (item.snoozed or "", item.created_seq))
        assert [_states(item) for item in page["items"]] == [
            astuple(item) for item in soonest if item.snoozed
        ]

    @invariant()
    def the_device_has_the_inbox(self) -> None:
        """What was pushed has made the same of the device, and the judge agrees."""

        async def catch_up() -> None:
            for message in await self.socket.said_so_far():
                await self.device.take(message)

        self.run(catch_up())
        fresh = self.run(self.user.whole_inbox())
        titles = {item.title for item in self.model.items}
        posts = [Post(title, (self.user.sub,)) for title in titles]
        deleted = {(self.user.sub, item.id) for item in self.model.items if item.deleted}
        complaints = judge(History(posts, [self.device.history], {self.user.sub: fresh}, deleted))
        # Titles repeat here, so that one is many notifications is no fault.
        assert [one for one in complaints if not one.startswith("twice")] == []

    def teardown(self) -> None:
        """Close the socket."""
        self.run(self._stack.aclose())


def _states(item: Json) -> tuple[Any, ...]:
    times = [item[name] is not None for name in ("read_at", "archived_at", "deleted_at")]
    answer = item["answer"] and item["answer"]["action"]
    first = (item["id"], item["title"], item["created_seq"], item["seq"])
    return (*first, *times, item["snoozed_until"], answer)


def test_any_operations_leave_the_inbox_the_model_and_the_device_alike(database_url: str) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(serving(settings_for(database_url))))
        users = iter(range(1_000_000))
        try:
            run_state_machine_as_test(
                lambda: InboxMachine(server, runner, f"user {next(users)}"),  # type: ignore[arg-type] # a factory will do
                settings=settings(
                    max_examples=15,
                    stateful_step_count=20,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
