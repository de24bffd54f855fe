"""How new connections are accepted: many in a pass, and whatever one of them does, the next ones too."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from itertools import pairwise

import pytest
import uvloop

from gateway.transport import acceptor
from gateway.transport.acceptor import Acceptor
from gateway.transport.connections import Connections, Full, Place
from tests.support.waiting import until

NewLoop = Callable[[], asyncio.AbstractEventLoop]


class Site:
    """A listener, its clients, and the connections that were made of them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.made: list[asyncio.BaseTransport] = []
        self.connections = Connections(1000, 1000)
        self.busy = False

    def connect(self, number: int = 1) -> list[socket.socket]:
        address = self.listener.getsockname()
        return [self._stack.enter_context(socket.create_connection(address)) for _ in range(number)]

    def protocol(self, place: Place | None) -> asyncio.Protocol:
        made, connections = self.made, self.connections

        class Made(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                if place is None:
                    with suppress(Full):
                        connections.enter("127.0.0.1")
                made.append(transport)

        return Made()

    async def accepted(self, number: int) -> None:
        await until(lambda: len(self.made) >= number, f"{number} connections are made")

    async def end(self) -> None:
        for transport in self.made:
            transport.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def accepting(
    site: Site, make: Callable[[Place | None], asyncio.Protocol] | None = None
) -> AsyncIterator[Acceptor]:
    started = Acceptor(site.listener, make or site.protocol, site.connections, lambda: site.busy)
    await started.start()
    try:
        yield started
    finally:
        started.close()
        await asyncio.sleep(0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    found: NewLoop = request.param
    return found


def added_by_passes(
    number: int, new_loop: NewLoop = uvloop.new_event_loop, *, busy: bool = False
) -> list[int]:
    """Return how many of so many connections each pass of the loop has made, but for those with none."""

    async def count(site: Site) -> list[int]:
        each = [0]
        async with accepting(site):
            while len(site.made) < number:
                await asyncio.sleep(0)
                each.append(len(site.made))
            await site.end()
        return [after - before for before, after in pairwise(each) if after > before]

    with ExitStack() as stack, asyncio.Runner(loop_factory=new_loop) as runner:
        site = Site(stack)
        site.busy = busy
        site.connect(number)
        return runner.run(count(site))


def test_few_connections_are_accepted_in_a_pass_while_requests_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor, "MAX_PASS_SECONDS", 3600)
    each = added_by_passes(200, busy=True)
    assert max(each) <= acceptor.MAX_PER_BUSY_PASS + 1
    assert len(each) >= 200 // (acceptor.MAX_PER_BUSY_PASS + 1)


def test_all_waiting_connections_are_accepted_within_three_passes(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "MAX_PASS_SECONDS", 3600)
    assert len(added_by_passes(200, new_loop)) <= 3


def test_a_pass_accepts_a_limited_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MAX_PASS_SECONDS", 3600)
    monkeypatch.setattr(acceptor, "MAX_PER_PASS", 10)
    added = added_by_passes(33)
    assert max(added) <= 11
    assert len(added) <= 7


def test_a_pass_stops_accepting_after_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MAX_PASS_SECONDS", 0)
    assert max(added_by_passes(9)) <= 2


@pytest.mark.parametrize("number", [1, 5])
def test_connections_that_fail_to_start_are_closed_and_the_next_one_starts(
    number: int, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    monkeypatch.setattr(acceptor.logger, "exception", failed.append)

    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)

            def make(place: Place | None) -> asyncio.Protocol:
                if len(failed) < number:
                    raise LookupError
                return site.protocol(place)

            refused = site.connect(number)
            async with accepting(site, make):
                for one in refused:
                    assert await asyncio.to_thread(has_ended, one)
                assert len(failed) == number
                assert not len(site.connections)
                site.connect()
                await site.accepted(1)
                await site.end()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


def has_ended(client: socket.socket) -> bool:
    client.settimeout(10)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_closed_acceptor_accepts_no_connection_and_keeps_accepted_ones(new_loop: NewLoop) -> None:
    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)
            address = site.listener.getsockname()
            async with accepting(site) as started:
                site.connect()
                await site.accepted(1)
                started.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            assert not site.made[0].is_closing()
            await site.end()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


def test_an_acceptor_closed_with_waiting_connections_accepts_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor, "MAX_PASS_SECONDS", 0)

    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)
            clients = site.connect(9)

            def make(place: Place | None) -> asyncio.Protocol:
                asyncio.get_running_loop().call_soon(started.close)
                return site.protocol(place)

            async with accepting(site, make) as started:
                await site.accepted(1)
                await asyncio.sleep(0.02)
            assert len(site.made) < 9
            for one in clients[len(site.made) :]:
                assert await asyncio.to_thread(has_ended, one)
            await site.end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


def test_connections_over_the_limit_are_refused_when_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MAX_PASS_SECONDS", 3600)

    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)
            site.connections = Connections(3, 3)
            clients = site.connect(9)
            async with accepting(site):
                # One that the event loop itself accepts is refused by its protocol.
                answers = [await asyncio.to_thread(answered, one) for one in clients[4:]]
                assert {one.partition(b"\r\n")[0] for one in answers} == {b"HTTP/1.1 503 Service Unavailable"}
                assert len(site.connections) == 3
                await site.end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


def answered(client: socket.socket) -> bytes:
    client.settimeout(10)
    with client.makefile("rb") as answer:
        return answer.read()


async def test_a_starting_worker_does_not_make_other_workers_block_on_accept() -> None:
    with ExitStack() as stack:
        site = Site(stack)
        for _ in range(2):
            # A worker has a listener of its own for the file that all share.
            inherited = socket.socket(fileno=os.dup(site.listener.fileno()))
            worker = Acceptor(inherited, site.protocol, site.connections, lambda: False)
            await worker.start()
            worker.close()
            assert not os.get_blocking(site.listener.fileno())
