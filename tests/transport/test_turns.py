"""Slices and turns: by a transport made by hand, and by real sockets on both event loops."""

import asyncio
import random
import socket
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
import uvloop

from gateway.transport.turns import Turns
from tests.support.waiting import until

SLICE = Turns.slice_bytes


class HandTransport(asyncio.Transport):
    """A transport that takes note of whether it reads, and refuses to deliver while it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.closing = False
        self.aborted = False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.closing
        self.reads = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Fed(Turns):
    """A protocol that keeps what it is fed, and then does what it is told."""

    def __init__(self, then: Callable[["Fed"], None] = lambda _: None) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = HandTransport()
        self.slices: list[bytes] = []
        self.then = then

    @property
    def hand(self) -> HandTransport:
        return cast("HandTransport", self.transport)

    def feed(self, data: bytes) -> None:
        assert len(data) <= self.slice_bytes
        self.slices.append(data)
        self.then(self)

    def receive(self, data: bytes) -> None:
        """Deliver as a transport does: only while it reads."""
        assert self.hand.reads
        self.data_received(data)


async def turns(number: int) -> None:
    """Let the loop run this many turns."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_single_slice_is_fed_at_once_and_reading_continues() -> None:
    fed = Fed()
    fed.receive(b"x" * SLICE)
    assert fed.slices == [b"x" * SLICE]
    assert fed.hand.reads


async def test_more_than_a_slice_is_fed_one_slice_per_turn_with_reading_paused() -> None:
    fed = Fed()
    data = random.randbytes(3 * SLICE + 1)
    fed.receive(data)
    for number in range(1, 4):
        assert len(fed.slices) == number
        assert not fed.hand.reads
        await turns(1)
    assert b"".join(fed.slices) == data
    assert fed.hand.reads


async def test_a_pause_by_the_protocol_stops_slices_and_reading_until_it_resumes() -> None:
    fed = Fed(Turns.pause_reading)
    data = random.randbytes(2 * SLICE + 1)
    fed.receive(data)
    await turns(5)
    assert len(fed.slices) == 1
    fed.resume_reading()
    assert not fed.hand.reads
    await turns(5)
    assert len(fed.slices) == 2
    fed.resume_reading()
    await turns(5)
    assert b"".join(fed.slices) == data
    assert not fed.hand.reads
    fed.resume_reading()
    assert fed.hand.reads


async def test_a_pause_between_two_slices_delays_the_next_slice() -> None:
    fed = Fed()
    fed.receive(bytes(2 * SLICE))
    fed.pause_reading()
    await turns(3)
    assert len(fed.slices) == 1
    fed.resume_reading()
    await turns(1)
    assert len(fed.slices) == 2
    assert fed.hand.reads


async def test_a_resume_within_a_slice_does_not_feed_two_in_one_turn() -> None:
    fed = Fed(Turns.resume_reading)
    fed.receive(bytes(3 * SLICE))
    assert len(fed.slices) == 1
    assert not fed.hand.reads
    await turns(1)
    assert len(fed.slices) == 2


async def test_data_received_while_paused_is_queued_behind_waiting_data() -> None:
    fed = Fed()
    data = random.randbytes(2 * SLICE)
    fed.data_received(data)
    fed.data_received(b"behind")
    assert len(fed.slices) == 1
    await turns(3)
    assert b"".join(fed.slices) == data + b"behind"


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_closing_transport_is_fed_no_more_slices(end: str) -> None:
    fed = Fed()
    fed.receive(bytes(3 * SLICE))
    getattr(fed.hand, end)()
    await turns(5)
    assert len(fed.slices) == 1


async def test_a_transport_closed_by_a_slice_holds_no_data() -> None:
    fed = Fed(lambda fed: fed.transport.close())
    fed.receive(bytes(3 * SLICE))
    await turns(5)
    assert len(fed.slices) == 1
    assert fed.take_unfed() == b""


async def test_a_lost_connection_is_fed_no_more_slices() -> None:
    fed = Fed()
    fed.receive(bytes(3 * SLICE))
    # Some transports say so before they close.
    fed.connection_lost(None)
    await turns(5)
    assert len(fed.slices) == 1


async def test_a_failing_slice_aborts_the_connection_in_any_turn() -> None:
    def fail(fed: Fed) -> None:
        if len(fed.slices) == 2:
            raise RuntimeError("the second slice")

    fed = Fed(fail)
    failures: list[BaseException] = []
    fed.loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    fed.receive(bytes(3 * SLICE))
    await turns(5)
    assert [str(failure) for failure in failures] == ["the second slice"]
    assert fed.hand.aborted
    assert len(fed.slices) == 2


async def test_a_hand_over_within_a_slice_takes_the_rest_and_keeps_the_new_pause() -> None:
    new = Fed()

    def hand_over(old: Fed) -> None:
        new.transport = old.transport
        new.data_received(old.take_unfed())
        # What of uvicorn still knows the old protocol may resume it.
        old.resume_reading()

    old = Fed(hand_over)
    data = random.randbytes(3 * SLICE)
    old.receive(data)
    assert not old.hand.reads
    await turns(5)
    assert old.slices == [data[:SLICE]]
    assert b"".join(new.slices) == data[SLICE:]
    assert old.hand.reads


async def test_a_hand_over_by_a_paused_protocol_resumes_reading() -> None:
    fed = Fed()
    fed.pause_reading()
    assert fed.take_unfed() == b""
    assert fed.hand.reads


async def test_no_data_is_lost_duplicated_or_reordered_for_any_sizes_and_pauses() -> None:
    chance = random.Random(1)
    for _ in range(50):
        fed = Fed(lambda fed: fed.pause_reading() if chance.random() < 0.3 else None)
        data = chance.randbytes(chance.randrange(20 * SLICE))
        left = data
        while left or len(b"".join(fed.slices)) < len(data):
            if fed.hand.reads and left:
                size = chance.choice((1, SLICE - 1, SLICE, SLICE + 1, 5 * SLICE))
                now, left = left[:size], left[size:]
                fed.receive(now)
            elif chance.random() < 0.5:
                fed.resume_reading()
            await turns(1)
        assert b"".join(fed.slices) == data


class Gated(Fed):
    """A protocol whose slices wait until the test lets one in."""

    free_bytes = 10

    def __init__(self, then: Callable[["Fed"], None] = lambda _: None) -> None:
        super().__init__(then)
        self.asked = 0
        self.lets_in = False
        self.lets_small_in = True

    def may_feed(self) -> bool:
        self.asked += 1
        return self.lets_in

    def may_feed_small(self, size: int, /) -> bool:
        assert size <= self.free_bytes
        return self.lets_small_in


async def test_each_slice_requests_a_turn_and_is_fed_only_then() -> None:
    fed = Gated()
    data = random.randbytes(2 * SLICE + 1)
    fed.receive(data)
    for number in range(3):
        assert (len(fed.slices), fed.asked, fed.hand.reads) == (number, number + 1, False)
        await turns(3)
        fed.enter()
    assert b"".join(fed.slices) == data
    assert fed.hand.reads
    assert fed.asked == 3


async def test_a_single_slice_waits_for_its_turn_unless_it_is_small() -> None:
    fed = Gated()
    fed.receive(b"x" * 10)
    assert (fed.slices, fed.asked) == ([b"x" * 10], 0)
    fed.receive(b"x" * 11)
    fed.data_received(b"behind")
    assert (len(fed.slices), fed.asked, fed.hand.reads) == (1, 1, False)
    fed.enter()
    assert fed.slices[1:] == [b"x" * 11 + b"behind"]
    assert fed.hand.reads


async def test_a_small_read_waits_if_many_others_have_come_at_once() -> None:
    fed = Gated()
    fed.lets_small_in = False
    fed.receive(b"x" * 10)
    fed.data_received(b"behind")
    assert (fed.slices, fed.hand.reads) == ([], False)
    fed.enter()
    assert (fed.slices, fed.hand.reads) == ([b"x" * 10 + b"behind"], True)


async def test_an_admitted_slice_is_fed_in_the_next_turn_of_the_event_loop() -> None:
    fed = Gated()
    fed.lets_in = True
    fed.receive(bytes(2 * SLICE))
    assert (len(fed.slices), fed.asked) == (1, 2)
    await turns(1)
    assert len(fed.slices) == 2


@pytest.mark.parametrize("how", ["take_unfed", "close", "lost", "pause_reading"])
async def test_a_turn_granted_to_a_paused_or_lost_connection_feeds_nothing(how: str) -> None:
    fed = Gated()
    fed.receive(bytes(SLICE))
    if how == "lost":
        fed.connection_lost(None)
    elif how == "close":
        fed.transport.close()
    else:
        getattr(fed, how)()
    fed.enter()
    assert fed.slices == []
    if how == "pause_reading":
        fed.resume_reading()
        assert fed.asked == 2
        fed.enter()
        assert fed.slices == [bytes(SLICE)]


async def test_data_to_feed_first_is_fed_before_data_that_waits_for_turns() -> None:
    fed = Fed()
    fed.pause_reading()
    fed.data_received(b"x" * (SLICE + 1))
    data = random.randbytes(SLICE)
    fed.feed_first(data)
    fed.resume_reading()
    assert fed.slices == []
    await turns(5)
    assert fed.slices == [data, b"x" * SLICE, b"x"]


class Received(Turns):
    """A protocol on a real transport. It counts the turns of the loop, and notes in which it was fed."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.fed: list[tuple[int, bytes]] = []
        self.ended = self.lost = False
        self.turn = 0
        self._count()

    def _count(self) -> None:
        self.turn += 1
        self._counter = self.loop.call_soon(self._count)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def feed(self, data: bytes) -> None:
        assert not self.ended
        self.fed.append((self.turn, data))
        if len(self.fed) % 16 == 0:
            self.pause_reading()
            self.loop.call_soon(self.resume_reading)

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = True
        self._counter.cancel()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_megabyte_before_a_hang_up_is_fed_completely_one_slice_per_turn(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    data = random.randbytes(1 << 20)

    async def send() -> Received:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        _, protocol = await loop.connect_accepted_socket(Received, ours)
        theirs.setblocking(False)
        await loop.sock_sendall(theirs, data)
        theirs.close()
        await until(lambda: protocol.ended, "the end has come")
        return protocol

    with asyncio.Runner(loop_factory=new_loop) as runner:
        received = runner.run(send())
    assert b"".join(part for _, part in received.fed) == data
    for (earlier, before), (later, _) in pairwise(received.fed):
        # A whole slice was, as a rule, not all that had come.
        assert earlier < later or len(before) < SLICE


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_reset_connection_is_fed_no_waiting_slices(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def send() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        transport, protocol = await loop.connect_accepted_socket(Received, ours)
        theirs.setblocking(False)
        await loop.sock_sendall(theirs, bytes(8 * SLICE))
        await until(lambda: protocol.fed, "the first slice is fed")
        theirs.close()
        transport.abort()
        before = len(protocol.fed)
        await until(lambda: protocol.lost, "the connection is lost")
        await asyncio.sleep(0)
        return before, len(protocol.fed)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        before, after = runner.run(send())
    assert before == after
