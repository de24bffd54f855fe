"""How new connections are accepted: many in a pass, and whatever one of them does, the next ones too."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from gateway.transport import acceptor
from gateway.transport.acceptor import Acceptor
from tests.support.waiting import until

NewLoop = Callable[[], asyncio.AbstractEventLoop]


class Listener(socket.socket):
    """A listener that fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen(512)
        self.failures: list[int] = []

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            raise OSError(self.failures.pop(), "as the kernel says")
        return super().accept()


class Site:
    """A listener, its clients, and the connections that were made of them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(Listener())
        self.made: list[asyncio.BaseTransport] = []

    def connect(self, number: int = 1) -> None:
        for _ in range(number):
            self._stack.enter_context(socket.create_connection(self.listener.getsockname()))

    def protocol(self) -> asyncio.Protocol:
        made = self.made

        class Made(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(transport)

        return Made()

    async def accepted(self, number: int) -> None:
        await until(lambda: len(self.made) >= number, f"{number} connections are made")
        assert len(self.made) == number

    async def end(self) -> None:
        for transport in self.made:
            transport.close()
        await asyncio.sleep(0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    found: NewLoop = request.param
    return found


def passes_of(new_loop: NewLoop, number: int) -> list[int]:
    """Return how many of so many connections were made by the end of each pass of the loop."""

    async def count(site: Site) -> list[int]:
        accepting = Acceptor(site.listener, site.protocol)
        each: list[int] = []
        while len(site.made) < number:
            await asyncio.sleep(0)
            each.append(len(site.made))
        accepting.close()
        await site.end()
        return each

    with ExitStack() as stack, asyncio.Runner(loop_factory=new_loop) as runner:
        site = Site(stack)
        site.connect(number)
        return runner.run(count(site))


def added_in(each: list[int]) -> list[int]:
    return [after - before for before, after in zip([0, *each], each, strict=False) if after > before]


def test_all_that_wait_are_accepted_in_one_pass(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "PASS", 3600)
    assert added_in(passes_of(new_loop, 200)) == [200]


def test_a_pass_accepts_so_many_at_most(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "PASS", 3600)
    monkeypatch.setattr(acceptor, "PER_PASS", 10)
    assert added_in(passes_of(new_loop, 25)) == [10, 10, 5]


def test_a_pass_accepts_no_longer_than_its_time(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "PASS", 0)
    assert added_in(passes_of(new_loop, 5)) == [1] * 5


def test_one_that_has_gone_again_takes_no_other_along(new_loop: NewLoop) -> None:
    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)
            site.listener.failures = [errno.ECONNABORTED, errno.ENETDOWN]
            site.connect()
            accepting = Acceptor(site.listener, site.protocol)
            accepting._accept()
            assert len(accepting._beginning) == 1
            await site.accepted(1)
            accepting.close()
            await site.end()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


def test_without_a_file_to_spare_it_pauses_and_goes_on(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, wrong = list[int](), list[dict[str, Any]]()
    monkeypatch.setattr(acceptor, "PAUSE", 0.01)
    monkeypatch.setattr(acceptor.logger, "error", lambda *_, **__: paused.append(1))

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        with ExitStack() as stack:
            site = Site(stack)
            site.listener.failures = [errno.EMFILE, errno.ENFILE]
            site.connect(2)
            accepting = Acceptor(site.listener, site.protocol)
            await site.accepted(2)
            assert len(paused) == 2
            site.listener.failures = [errno.EMFILE]
            site.connect()
            await until(lambda: len(paused) == 3, "it pauses")
            accepting.close()
            await asyncio.sleep(0.02)
            assert (len(site.made), wrong) == (2, [])
            await site.end()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


def test_one_that_cannot_begin_is_closed_and_the_next_one_begins(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    monkeypatch.setattr(acceptor.logger, "exception", failed.append)

    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)

            def make() -> asyncio.Protocol:
                if not failed:
                    raise LookupError
                return site.protocol()

            accepting = Acceptor(site.listener, make)
            refused = stack.enter_context(socket.create_connection(site.listener.getsockname()))
            await until(lambda: failed, "the first has failed")
            refused.settimeout(10)
            assert await asyncio.to_thread(refused.recv, 1) == b""
            site.connect()
            await site.accepted(1)
            accepting.close()
            await site.end()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


def test_one_that_is_closed_accepts_nobody_and_what_was_accepted_goes_on(new_loop: NewLoop) -> None:
    async def check() -> None:
        with ExitStack() as stack:
            site = Site(stack)
            accepting = Acceptor(site.listener, site.protocol)
            address = site.listener.getsockname()
            site.connect()
            await site.accepted(1)
            accepting.close()
            accepting.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            assert not site.made[0].is_closing()
            await site.end()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


async def test_a_worker_that_begins_makes_no_other_wait_for_connections() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(2):
            # A worker has a listener of its own for the file that all share.
            inherited = socket.socket(fileno=os.dup(listener.fileno()))
            accepting = Acceptor(inherited, asyncio.Protocol)
            stack.callback(accepting.close)
            assert not os.get_blocking(listener.fileno())
