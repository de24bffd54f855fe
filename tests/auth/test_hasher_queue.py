"""Whose password is hashed next: shown by the order alone, with a hasher that is held."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from gateway.auth import hasher_queue
from gateway.auth.hasher_queue import MAX_WAITING_PER_ACCOUNT, MAX_WAITING_PER_NETWORK, HasherQueue, Turn
from gateway.auth.passwords import THREADS, Passwords
from gateway.errors import Overloaded, RateLimited
from gateway.settings.networks import networks_of
from tests.support.waiting import PATIENCE, until

HOME, NEW = networks_of("192.0.2.1"), networks_of("198.51.100.7")


def guess(number: int, of: int = 100) -> Turn:
    """Return one of many guesses, from `of` addresses in turn: for ada, or for a made-up name."""
    account = "ada" if number % 2 else f"made up {number}"
    return Turn(account, networks_of(f"10.0.{number % of // 256}.{number % of % 256}"))


class Line:
    """A queue of one slot that is held, and the order in which those that wait are served."""

    def __init__(self, slots: int = 1) -> None:
        self.turns = HasherQueue(slots)
        self.served: list[Turn] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._next = asyncio.Event()

    async def take(self, turn: Turn) -> None:
        """Take a turn, or be refused, at once."""
        async with asyncio.timeout(PATIENCE):
            await self.turns.take(turn)

    async def hold(self, *held: Turn) -> None:
        """Take the slots."""
        for turn in held:
            await self.turns.take(turn)

    async def wait(self, *waiting: Turn) -> None:
        """Let these wait, in this order."""
        for turn in waiting:
            self.tasks.append(asyncio.create_task(self._take(turn)))
            await asyncio.sleep(0)

    async def _take(self, turn: Turn) -> None:
        await self.turns.take(turn)
        self.served.append(turn)
        self._next.set()

    async def serve(self, held: Turn, number: int) -> list[Turn]:
        """Let go of what is held, serve so many after it one by one, and return them."""
        for _ in range(number):
            self._next.clear()
            self.turns.release(held)
            async with asyncio.timeout(PATIENCE):
                await self._next.wait()
            held = self.served[-1]
        return self.served[-number:]

    async def end(self) -> None:
        """Let nobody wait any more."""
        self.turns.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    one = Line()
    yield one
    await one.end()


async def test_the_owner_at_a_known_address_is_next_despite_400_waiting_guesses(line: Line) -> None:
    held = guess(0)
    await line.hold(held)
    await line.wait(*(guess(number) for number in range(1, 401)))
    owner = Turn("ada", HOME, known=True)
    await line.wait(owner)
    assert await line.serve(held, 1) == [owner]


async def test_the_owner_at_a_new_address_is_served_within_the_round(line: Line) -> None:
    held = guess(0)
    await line.hold(held)
    await line.wait(*(guess(number) for number in range(1, 401)))
    owner = Turn("ada", NEW)
    await line.wait(owner)
    order = await line.serve(held, 101)
    assert order.index(owner) == 100, "each of the 100 other addresses had one turn before"
    assert len({turn.networks for turn in order}) == 101


async def test_known_callers_and_others_take_turns_so_that_neither_starves(line: Line) -> None:
    held = guess(0)
    await line.hold(held)
    await line.wait(*(guess(number) for number in range(1, 20)))
    await line.wait(*(Turn(f"user-{number}", HOME, known=True) for number in range(20)))
    order = await line.serve(held, 12)
    assert [turn.known for turn in order] == [True, False] * 6


async def test_an_ipv6_48_has_one_turn_per_round_even_if_many_of_its_64s_wait(line: Line) -> None:
    held = guess(0)
    await line.hold(held)
    crowd = [Turn(f"guess {number}", networks_of(f"2001:db8:0:{number:x}::1")) for number in range(300)]
    await line.wait(*crowd)
    owner = Turn("ada", networks_of("2001:db8:1::1"))
    await line.wait(owner)
    assert await line.serve(held, 4) == [crowd[0], owner, crowd[1], crowd[2]]


async def test_within_a_48_each_64_has_its_turn(line: Line) -> None:
    held = guess(0)
    await line.hold(held)
    crowd = [Turn(f"guess {number}", networks_of("2001:db8::1")) for number in range(10)]
    owner = Turn("ada", networks_of("2001:db8:0:1::1"))
    await line.wait(*crowd, owner)
    assert await line.serve(held, 3) == [crowd[0], owner, crowd[1]]


@pytest.mark.parametrize("known", [False, True])
async def test_an_account_at_one_address_has_one_hash_in_progress_at_a_time(known: bool) -> None:
    line = Line(slots=2)
    first, other = Turn("ada", HOME, known), Turn("bob", NEW, known)
    await line.hold(first)
    await line.wait(first, first)
    assert line.served == [], "a slot is free, and the account is at work"
    await line.wait(other)
    assert line.served == [other], "others are not held up by that"
    await line.serve(first, 1)
    assert line.served == [other, first]
    await line.end()


@pytest.mark.parametrize(
    ("known", "most"),
    [(False, MAX_WAITING_PER_NETWORK), (True, MAX_WAITING_PER_ACCOUNT)],
    ids=["not known", "known"],
)
async def test_a_caller_over_the_waiting_limit_gets_a_429_with_retry_after(
    line: Line, known: bool, most: int
) -> None:
    await line.hold(guess(0))
    await line.wait(*(Turn("ada", HOME, known) for _ in range(most)))
    with pytest.raises(RateLimited) as refused:
        await line.take(Turn("ada", HOME, known))
    assert refused.value.headers["Retry-After"] == "1"
    assert refused.value.headers["RateLimit-Policy"] == f'"hashes";q={most};w=1'
    await line.wait(Turn("ada", NEW, known))
    assert (await line.serve(guess(0), 2))[-1] == Turn("ada", NEW, known)


async def test_users_behind_one_known_address_do_not_hold_each_other_up(line: Line) -> None:
    await line.hold(guess(0))
    users = [Turn(f"user-{number}", HOME, known=True) for number in range(5 * MAX_WAITING_PER_NETWORK)]
    await line.wait(*users)
    assert await line.serve(guess(0), len(users)) == users


async def test_a_full_queue_evicts_from_the_busiest_address_to_admit_a_new_one(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hasher_queue, "MAX_WAITING", 12)
    await line.hold(guess(0))
    crowd = [Turn(f"guess {number}", HOME) for number in range(10)]
    await line.wait(*crowd, guess(1), guess(2))
    await line.wait(Turn("ada", NEW))
    displaced = line.tasks[9]
    with pytest.raises(Overloaded):
        await asyncio.wait_for(displaced, PATIENCE)
    with pytest.raises(Overloaded):
        await line.take(crowd[0])
    assert Turn("ada", NEW) in await line.serve(guess(0), 4)


async def test_a_queue_full_of_single_addresses_admits_only_known_callers(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hasher_queue, "MAX_WAITING", 3)
    await line.hold(guess(0))
    await line.wait(guess(1), guess(2), guess(3))
    with pytest.raises(Overloaded):
        await line.take(guess(4))
    owner = Turn("ada", HOME, known=True)
    await line.wait(owner)
    assert await line.serve(guess(0), 1) == [owner], "known callers have a line of their own"


async def test_a_caller_cancelled_while_waiting_takes_no_turn(line: Line) -> None:
    await line.hold(guess(0))
    await line.wait(guess(1), guess(2))
    line.tasks[0].cancel()
    assert await line.serve(guess(0), 1) == [guess(2)]
    assert line.turns.taken == 1


async def test_a_caller_cancelled_at_its_turn_returns_the_turn(line: Line) -> None:
    await line.hold(guess(0))
    await line.wait(guess(1), guess(2))
    line.turns.release(guess(0))
    line.tasks[0].cancel()
    await until(lambda: line.served == [guess(2)], "the next one is served")


async def test_the_queue_keeps_no_state_of_served_callers(line: Line) -> None:
    await line.hold(guess(0))
    await line.wait(*(guess(number) for number in range(1, 50)))
    line.turns.release((await line.serve(guess(0), 49))[-1])
    for each in line.turns._lines.values():
        assert (len(each), each._round, each._sizes, each._waiting) == (0, {}, {}, {})
    assert line.turns.taken == 0


# --- the hasher ---------------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def held(hasher: Passwords, gate: threading.Event, order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hasher note whose password it looks at, and wait for the gate."""

    def verify(password: str, _hashed: str | None) -> bool:
        gate.wait(30)
        order.append(password)
        return True

    monkeypatch.setattr(hasher, "_verify", verify)


async def test_the_hasher_serves_the_owner_next_despite_400_waiting_guesses(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    with Passwords() as hasher:
        held(hasher, gate, order, monkeypatch)
        guesses = [
            asyncio.create_task(hasher.verify(f"guess {number}", None, guess(number)))
            for number in range(400)
        ]
        await until(lambda: hasher.turns.taken == THREADS, "the hasher is busy")
        owner = asyncio.create_task(hasher.verify("the owner's", None, Turn("ada", HOME, known=True)))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(owner, *guesses) == [True] * 401
    assert "the owner's" in order[: 2 * THREADS]


async def test_a_hash_of_a_cancelled_caller_keeps_its_turn_until_it_finishes(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    with Passwords() as hasher:
        held(hasher, gate, order, monkeypatch)

        def call(number: int) -> asyncio.Task[bool]:
            return asyncio.create_task(hasher.verify(f"guess {number}", None, guess(number)))

        working = [call(number) for number in range(THREADS)]
        await until(lambda: hasher.turns.taken == THREADS, "the hasher is busy")
        for one in working:
            one.cancel()
            with suppress(asyncio.CancelledError):
                await one
        assert hasher.turns.taken == THREADS
        gate.set()
        assert await call(THREADS)
        await until(lambda: hasher.turns.taken == 0, "every turn is given back")


async def test_closing_the_hasher_cancels_waiting_callers(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    with Passwords() as hasher:
        held(hasher, gate, order, monkeypatch)
        calls = [asyncio.create_task(hasher.verify("x", None, guess(number))) for number in range(5)]
        await until(lambda: hasher.turns.taken == THREADS, "the hasher is busy")
        gate.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done[THREADS:]] == [True] * 3
    with pytest.raises(Overloaded):
        await hasher.verify("x", None, guess(0))
