"""How many requests begin in one pass of the event loop, and what unfinished ones may take in all."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import pytest

from gateway.transport import turnstile
from gateway.transport.turnstile import MAX_PER_PASS, MIN_PER_PASS, TURNSTILE, Turnstile
from tests.support.servers import LocalServer
from tests.support.waiting import until

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connected(server: LocalServer, stack: AsyncExitStack) -> Wire:
    host, port = server.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    stack.callback(writer.close)
    return reader, writer


def turnstile_of(server: LocalServer) -> Turnstile:
    found: Turnstile = server.uvicorn.lifespan.state[TURNSTILE]
    return found


async def test_a_few_requests_start_in_a_pass_and_the_others_in_later_passes() -> None:
    gate, begun = Turnstile(), list[int]()
    at_once = [gate.passes("a", partial(begun.append, number)) for number in range(50)]
    assert at_once == [True] * MAX_PER_PASS + [False] * (50 - MAX_PER_PASS)
    assert begun == []
    each = []
    while len(begun) < 50 - MAX_PER_PASS:
        before = len(begun)
        await asyncio.sleep(0)
        each.append(len(begun) - before)
    assert max(each) <= MAX_PER_PASS
    assert begun == list(range(MAX_PER_PASS, 50))


async def test_addresses_take_turns() -> None:
    gate, begun = Turnstile(), list[str]()
    for number in range(400):
        gate.passes("many", partial(begun.append, f"many {number}"))
    gate.passes("one", lambda: begun.append("one"))
    await until(lambda: begun, "the next pass has come")
    assert begun.index("one") <= 1


@pytest.mark.parametrize("address", ["2001:db8::{:x}", "2001:db8:0:{:x}::1"], ids=["a /64", "a /48"])
async def test_the_addresses_of_one_network_share_one_turn(address: str) -> None:
    gate, begun = Turnstile(), list[str]()
    for number in range(400):
        gate.passes(address.format(number), partial(begun.append, f"many {number}"))
    gate.passes("2001:db8:1::1", lambda: begun.append("one"))
    await until(lambda: begun, "the next pass has come")
    assert begun.index("one") <= 1


class Clock:
    """Time that passes only when it is taken."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def take(self, seconds: float) -> None:
        self.now += seconds


def read_at_once(gate: Turnstile, number: int, handled: list[int], clock: Clock) -> None:
    """Read one small frame on each of many sockets, as one pass of the event loop does."""

    def handle(one: int) -> None:
        clock.take(1e-5)
        handled.append(one)

    for one in range(number):
        if gate.passes_small(16, "a", partial(handle, one)):
            handle(one)


async def test_small_reads_of_one_pass_wait_beyond_a_limit_and_then_share_each_pass_with_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turnstile, "perf_counter", clock := Clock())
    gate, handled, each = Turnstile(), list[int](), list[float]()
    at_once = turnstile.MAX_SMALL_BYTES // 16
    read_at_once(gate, 1000, handled, clock)
    assert handled == list(range(at_once))
    while len(handled) < 1000:
        before = clock.now
        await asyncio.sleep(0)
        each.append(clock.now - before)
    assert handled == list(range(1000))
    assert max(each) <= turnstile.MAX_PASS_SECONDS + 1e-5
    clock.take(turnstile.SMALL_SECONDS)
    assert gate.passes_small(16, "a", lambda: None)


async def test_small_reads_that_come_one_by_one_never_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "perf_counter", clock := Clock())
    gate, waited = Turnstile(), 0
    for _ in range(10_000):
        clock.take(1e-4)
        waited += not gate.passes_small(16, "a", lambda: None)
    assert waited == 0


async def test_networks_take_turns_with_their_small_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turnstile, "perf_counter", clock := Clock())
    gate, handled = Turnstile(), list[int]()
    read_at_once(gate, 1000, handled, clock)
    assert not gate.passes_small(16, "b", lambda: handled.append(-1))
    handled.clear()
    await until(lambda: -1 in handled, "it is handled")
    assert handled.index(-1) <= 1


async def test_a_small_read_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "perf_counter", Clock())
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    gate, handled = Turnstile(), list[int]()

    def fail() -> None:
        raise RuntimeError

    gate.passes_small(turnstile.MAX_SMALL_BYTES + 1, "a", fail)
    for number in range(3):
        gate.passes_small(1, "a", partial(handled.append, number))
    await until(lambda: len(handled) == 3, "the others are handled")


async def test_work_with_its_own_limit_takes_no_turns_from_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(turnstile, "perf_counter", lambda: now)
    gate, begun = Turnstile(), list[int]()
    for number in range(4 * MAX_PER_PASS):
        gate.passes("a", partial(begun.append, number))
    for _ in range(3):
        now += 2 * turnstile.MAX_PASS_SECONDS
        gate.leave_out(2 * turnstile.MAX_PASS_SECONDS)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(begun) == 3 * MAX_PER_PASS


async def test_fewer_requests_start_in_a_pass_after_slow_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(turnstile, "perf_counter", lambda: now)
    gate, each = Turnstile(), list[int]()

    def take_long() -> None:
        nonlocal now
        each[-1] += 1
        now += 2 * turnstile.MAX_PASS_SECONDS

    def take_none() -> None:
        each[-1] += 1

    for _ in range(200):
        gate.passes("a", take_long)
    while sum(each) < 200 - MAX_PER_PASS:
        each.append(0)
        await asyncio.sleep(0)
    started = [one for one in each if one]
    # What the first ones cost is known when the next have begun.
    assert started[:5] == [
        MAX_PER_PASS,
        MAX_PER_PASS,
        MAX_PER_PASS // 2,
        MIN_PER_PASS,
        MIN_PER_PASS,
    ], started
    # Whatever else makes passes long: fewer at a time would never be answered.
    assert set(started[5:-1]) == {MIN_PER_PASS}
    # What waits for the next pass is told by what this one costs, whether anything waits then or not.
    await asyncio.sleep(0)
    at_once = [gate.passes("a", take_none) for _ in range(MIN_PER_PASS + 1)]
    assert at_once == [True] * MIN_PER_PASS + [False]
    for _ in range(100):
        gate.passes("a", take_none)
    each[:] = [0]
    while sum(each) < 101:
        each.append(0)
        await asyncio.sleep(0)
    assert [one for one in each if one][:3] == [2 * MIN_PER_PASS, MAX_PER_PASS, MAX_PER_PASS]


@pytest.mark.parametrize("address", ["2001:db8::{:x}", "2001:db8:0:{:x}::1"], ids=["a /64", "a /48"])
async def test_one_network_holds_no_more_than_remains_for_others(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(turnstile, "MAX_HELD_BYTES", 100)
    gate = Turnstile()
    each = [20, 30, 1]
    held = [gate.hold(address.format(number), size) for number, size in enumerate(each)]
    assert held == [True, True, False]
    assert gate.hold("192.0.2.1", 20)
    assert gate.hold("192.0.2.2", 5)
    for number, size in enumerate(each):
        gate.hold(address.format(number), -size)
    assert not any(one.endswith("48") for one in gate._held._by_network)
    assert gate.hold("192.0.2.3", 30)


async def test_a_request_that_fails_to_start_does_not_affect_others() -> None:
    gate, begun, failed = Turnstile(), list[str](), list[str]()

    def fail() -> None:
        raise LookupError

    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["message"]))
    for _ in range(MAX_PER_PASS):
        gate.passes("a", fail)
    gate.passes("a", fail)
    gate.passes("a", lambda: begun.append("the next"))
    await until(lambda: begun, "the next has begun")
    assert len(failed) == 1


async def test_all_connections_are_answered_however_few_requests_start_in_a_pass(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "MAX_PER_PASS", 1)
    async with AsyncExitStack() as stack:
        wires = [await connected(server, stack) for _ in range(60)]
        for _, writer in wires:
            writer.write(REQUEST)
        answers = await asyncio.gather(*(reader.read(-1) for reader, _ in wires))
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    await until(lambda: turnstile_of(server).held_bytes == 0, "nothing is held")


async def test_a_client_that_hangs_up_while_waiting_causes_no_error(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "MAX_PER_PASS", 1)
    async with AsyncExitStack() as stack:
        wires = [await connected(server, stack) for _ in range(30)]
        for number, (_, writer) in enumerate(wires):
            writer.write(REQUEST * 3)
            if number % 2:
                writer.transport.abort()
        await asyncio.gather(*(reader.read(-1) for reader, _ in wires[::2]))
    await until(lambda: turnstile_of(server).held_bytes == 0, "nothing is held")
    assert (await server.http.get("/healthz")).status_code == 200


async def test_the_request_of_a_client_that_left_while_it_waited_is_not_served(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "MAX_PER_PASS", 1)
    state = server.uvicorn.server_state
    async with AsyncExitStack() as stack:
        wires = [await connected(server, stack) for _ in range(40)]
        before = state.total_requests
        for number, (_, writer) in enumerate(wires):
            writer.write(REQUEST)
            if number % 2:
                writer.close()
        answers = await asyncio.gather(*(reader.read(-1) for reader, _ in wires[::2]))
        await until(lambda: len(state.connections) <= 1, "all connections have ended")
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    # Some requests begin before the server can know.
    assert 20 <= state.total_requests - before < 30


async def test_unfinished_heads_are_limited_in_total_and_earlier_ones_can_complete(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnstile, "MAX_HELD_BYTES", 200_000)
    head = REQUEST[:-2] + b"X-Long: " + b"x" * 40_000
    async with AsyncExitStack() as stack:
        first, second, third = [await connected(server, stack) for _ in range(3)]
        for number, (_, writer) in enumerate((first, second), 1):
            writer.write(head)
            expected = number * len(head)
            await until(lambda least=expected: turnstile_of(server).held_bytes >= least, "it has come")  # type: ignore[misc]
        third[1].write(head)
        answer = await third[0].read(-1)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Unfinished requests" in answer
        for reader, writer in (first, second):
            writer.write(b"\r\n\r\n")
            assert (await reader.read(-1)).startswith(b"HTTP/1.1 200 ")
    await until(lambda: turnstile_of(server).held_bytes == 0, "nothing is held")
