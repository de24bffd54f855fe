"""The hub alone: whom it reaches, and how much it does in one turn of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from math import inf

import pytest
import structlog

from gateway.delivery import hub as module
from gateway.delivery.hub import CLOSED_PER_TURN, TICK_SECONDS, TURN, Hub
from gateway.delivery.wakes import SHARE, Wakes
from gateway.protocol.close_codes import Close
from gateway.protocol.items import Counts
from gateway.store.entries import Entry
from tests.support.waiting import until


class Fake:
    """A subscriber that notes in which turn of the loop something came to it."""

    position = (0, 0, 0)

    def __init__(self, session: str, turns: "Turns") -> None:
        self.session = session
        self._turns = turns
        self.woken = self.ticked = self.closed = -1
        self.wakes = 0

    def wake(self, seq: int) -> None:
        """Be rung."""
        assert seq == 7
        self.wakes += 1
        self.woken = self._turns.now

    def tick(self) -> None:
        """Look at no deadline."""
        self.ticked = self._turns.now

    def close(self, code: Close, reason: str) -> None:
        """Be closed."""
        assert (code, reason) == (Close.UNAUTHORIZED, "token_revoked")
        self.closed = self._turns.now


class Turns:
    """Counts the turns of the loop, as somebody who waits for one each time."""

    def __init__(self) -> None:
        self.now = 0

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            await asyncio.sleep(0)
            self.now += 1


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    counting = Turns()
    task = asyncio.create_task(counting.run())
    yield counting
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def stack() -> AsyncExitStack:
    return AsyncExitStack()


def attached(stack: AsyncExitStack, fakes: list[Fake]) -> Hub:
    hub = Hub((), max_sockets=10_000, max_sockets_per_user=10_000)
    for number, fake in enumerate(fakes):
        hub.attach(number, fake)
        stack.callback(hub.detach, number, fake)
    return hub


def per_turn(turns: list[int]) -> list[int]:
    return [turns.count(turn) for turn in sorted(set(turns))]


async def test_ending_sessions_closes_exactly_their_sockets(turns: Turns, stack: AsyncExitStack) -> None:
    fakes = [Fake(session, turns) for session in ("a", "b", "a", "c", "a")]
    async with stack:
        hub = attached(stack, fakes)
        hub.end_sessions(["a", "unknown"])
        assert [fake.closed >= 0 for fake in fakes] == [True, False, True, False, True]


async def test_a_socket_moved_to_another_session_closes_with_the_new_session(
    turns: Turns, stack: AsyncExitStack
) -> None:
    one, two = Fake("a", turns), Fake("a", turns)
    async with stack:
        hub = attached(stack, [one, two])
        hub.move(one, "b")
        hub.move(two, "a")
        hub.end_sessions(["a"])
        assert (one.closed >= 0, two.closed >= 0) == (False, True)
        hub.end_sessions(["b"])
        assert one.closed >= 0


async def test_the_hub_keeps_no_state_of_detached_sockets(turns: Turns, stack: AsyncExitStack) -> None:
    fakes = [Fake(session, turns) for session in "aaabbc"]
    async with stack:
        hub = attached(stack, fakes)
        hub.move(fakes[0], "d")
        hub.move(fakes[5], "a")
    assert (len(hub), len(hub._sessions), len(hub._users)) == (0, 0, 0)


async def test_many_sockets_close_over_several_turns_of_the_event_loop(
    turns: Turns, stack: AsyncExitStack
) -> None:
    fakes = [Fake(str(number), turns) for number in range(3 * CLOSED_PER_TURN + 1)]
    async with stack:
        hub = attached(stack, fakes)
        hub.end_sessions([fake.session for fake in fakes[:-1]])
        hub.end_sessions([fakes[-1].session])
        await until(lambda: all(fake.closed >= 0 for fake in fakes), "all are closed")
    assert per_turn([fake.closed for fake in fakes]) == [CLOSED_PER_TURN] * 3 + [1]


async def test_a_socket_that_fails_to_close_does_not_leave_others_open(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Fake("a", turns), Fake("b", turns)

    def fail(code: Close, reason: str) -> None:
        raise RuntimeError

    monkeypatch.setattr(one, "close", fail)
    async with stack:
        hub = attached(stack, [one, two])
        with pytest.raises(RuntimeError):
            hub.end_sessions(["a", "b"])
        await until(lambda: two.closed >= 0, "the other is closed")


async def test_a_commit_for_many_users_wakes_them_over_several_turns(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 60)
    fakes = [Fake(str(number), turns) for number in range(2 * TURN + 1)]
    async with stack:
        hub = attached(stack, fakes)
        hub.wake(dict.fromkeys(range(len(fakes) + 10), 7))
        await until(lambda: all(fake.woken >= 0 for fake in fakes), "all are rung")
    assert per_turn([fake.woken for fake in fakes]) == [TURN, TURN, 1]


async def test_slow_wakes_leave_turns_to_others(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0)
    fakes = [Fake(str(number), turns) for number in range(4)]
    async with stack:
        attached(stack, fakes).wake(dict.fromkeys(range(4), 7))
        await until(lambda: all(fake.woken >= 0 for fake in fakes), "all are woken")
    assert len({fake.woken for fake in fakes}) == 4


def sent_by(service_id: int, users: Iterable[int]) -> list[Entry]:
    return [Entry(user, Counts(7, 1, 1, 0), (), service_id=service_id) for user in users]


async def test_senders_take_turns_so_that_one_post_does_not_wait_for_those_to_many(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 60)
    fakes = [Fake(str(number), turns) for number in range(3 * TURN + 2)]
    one, changed = len(fakes) - 2, len(fakes) - 1
    async with stack:
        hub = attached(stack, fakes)
        for _ in range(3):
            hub.wake(dict.fromkeys(range(3 * TURN), 7), sent_by(1, range(3 * TURN)))
        # Both share a commit with a post to many.
        hub.wake(dict.fromkeys(range(3 * TURN + 2), 7), [*sent_by(1, range(3 * TURN)), *sent_by(2, [one])])
        first = fakes[0].woken
        assert (first >= 0, fakes[one].woken) == (True, -1)
        await until(lambda: all(fake.woken >= 0 for fake in fakes), "all are woken")
    assert (fakes[one].woken, fakes[changed].woken, fakes[3 * TURN - 1].woken) == (
        first + 1,
        first + 1,
        first + 3,
    )


async def test_a_user_waits_once_for_each_sender_however_many_commits_follow(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 60)
    fakes = [Fake(str(number), turns) for number in range(TURN + 10)]
    async with stack:
        hub = attached(stack, fakes)
        hub.wake(dict.fromkeys(range(TURN + 1), 7), sent_by(1, range(TURN + 1)))
        for _ in range(100):
            hub.wake(dict.fromkeys(range(TURN + 10), 7), sent_by(1, range(TURN + 10)))
        await until(lambda: all(fake.woken >= 0 for fake in fakes), "all are woken")
        await until(lambda: not hub._wakes, "none waits")
    assert sum(fake.wakes for fake in fakes) == TURN + (TURN + 10)


async def test_a_waiting_wake_has_the_highest_seq() -> None:
    woken = list[tuple[int, int]]()

    def wake(user_id: int, seq: int) -> int:
        woken.append((user_id, seq))
        return 1

    wakes = Wakes(wake)
    for seq in (5, 7, 6):
        wakes.add({1: seq, 2: seq}, sent_by(1, [1, 2]))
    wakes.take(10, inf)
    assert woken == [(1, 7), (2, 7)]


async def test_a_turn_of_a_sender_ends_after_its_share_of_connections() -> None:
    woken = list[int]()

    def wake(user_id: int, _: int) -> int:
        woken.append(user_id)
        return SHARE // 2

    wakes = Wakes(wake)
    wakes.add(dict.fromkeys(range(4), 7), sent_by(1, range(4)))
    wakes.add(dict.fromkeys(range(10, 14), 7), sent_by(2, range(10, 14)))
    wakes.take(1000, inf)
    assert woken == [0, 1, 10, 11, 2, 3, 12, 13]


async def test_a_subscriber_whose_wake_fails_is_closed_and_others_are_woken(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 60)
    fakes = [Fake(str(number), turns) for number in range(3)]
    closed = list[tuple[Close, str]]()

    def fail(_: int) -> None:
        raise RuntimeError

    monkeypatch.setattr(fakes[1], "wake", fail)
    monkeypatch.setattr(fakes[1], "close", lambda code, reason: closed.append((code, reason)))
    async with stack:
        hub = attached(stack, fakes)
        with structlog.testing.capture_logs() as events:
            hub.wake(dict.fromkeys(range(3), 7))
        assert [event["event"] for event in events] == ["a wake failed"]
        assert [fake.woken >= 0 for fake in fakes] == [True, False, True]
        await until(lambda: closed, "it is closed")
    assert closed == [(Close.INTERNAL_ERROR, "internal_error")]


async def test_a_commit_for_few_users_wakes_them_at_once(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 60)
    fakes = [Fake(str(number), turns) for number in range(TURN)]
    async with stack:
        attached(stack, fakes).wake(dict.fromkeys(range(TURN), 7))
        assert all(fake.woken >= 0 for fake in fakes)


async def test_sockets_check_their_deadlines_over_several_turns(
    turns: Turns, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", TICK_SECONDS / 20)
    fakes = [Fake(str(number), turns) for number in range(2 * TURN + 1)]
    async with stack:
        running = asyncio.create_task(attached(stack, fakes).run())
        await until(lambda: fakes[-1].ticked >= 0, "the last has looked")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert all(fake.ticked >= 0 for fake in fakes)
        assert len({fakes[0].ticked, fakes[TURN].ticked, fakes[2 * TURN].ticked}) == 3
