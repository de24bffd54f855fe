"""Turns: how a protocol feeds what its client sent in bounded slices, so that the others get theirs.

An event loop that reads 256 KiB of small frames or requests would handle all of them before it looks at
another client, and uvloop reads a socket again and again for as long as each read fills its buffer. A
protocol with turns feeds one slice, pauses reading, and feeds the next slice in the next turn of the loop.
Reading resumes when no slice is left, so one read is all that is ever held.
"""

import asyncio


class Turns(asyncio.Protocol):
    """A base of protocols: put it before uvicorn's class, and define `feed` in place of `data_received`.

    The protocol has `loop` and `transport`. It pauses and resumes reading by the methods here, never on the
    transport, so that the turns do not resume what it has paused, nor it them. Before it hands its connection
    over it calls `take_unfed`.
    """

    slice_bytes = 4096
    """The most that is fed in one turn of the loop."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    # On the class, so that a connection pays for them only once it sends more than a slice at a time.
    _unfed: bytes | memoryview = b""
    _next_turn: asyncio.Handle | None = None
    _held = False
    _over = False

    def feed(self, data: bytes) -> None:
        """Take what came: at most `slice_bytes`."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Feed what came: at once if it fits into a slice and nothing waits before it."""
        if len(data) <= self.slice_bytes and not self._unfed:
            self.feed(data)
        elif self._unfed:
            self._unfed = memoryview(bytes(self._unfed) + data)
        else:
            self._unfed = memoryview(data)
            self.transport.pause_reading()
            self._feed_slice()

    def pause_reading(self) -> None:
        """Neither read nor feed until `resume_reading`."""
        self._held = True
        if not self._over:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Feed what waits, a slice in each turn; then read again."""
        self._held = False
        self._go_on()

    def take_unfed(self) -> bytes:
        """Return what waits, and end the turns; the transport reads.

        Called within `feed`, it returns what comes behind the slice that is being fed. From here on this
        protocol neither pauses nor resumes the transport.
        """
        unfed, self._unfed = bytes(self._unfed), b""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        self._go_on()
        self._over = True
        return unfed

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what waits."""
        self.take_unfed()
        super().connection_lost(exc)

    def _feed_slice(self) -> None:
        self._next_turn = None
        if self._held or self.transport.is_closing():
            return
        data = bytes(self._unfed[: self.slice_bytes])
        # An empty view would keep all that was read.
        self._unfed = self._unfed[self.slice_bytes :] or b""
        try:
            self.feed(data)
        except BaseException:
            # The loop does so where `data_received` fails, but not where a turn of its own does.
            self.transport.abort()
            raise
        if not self._held:
            self._go_on()

    def _go_on(self) -> None:
        """Feed the next slice in the next turn, or read if none waits; neither where the transport closes."""
        if self.transport.is_closing():
            self._unfed = b""
        elif self._over or self._next_turn is not None:
            return
        elif self._unfed:
            self._next_turn = self.loop.call_soon(self._feed_slice)
        else:
            self.transport.resume_reading()
