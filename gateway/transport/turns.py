"""Turns: how a protocol feeds what its client sent in bounded slices, so that the others get theirs.

An event loop that reads 256 KiB of small frames or requests would handle all of them before it looks at
another client, and uvloop reads a socket again and again for as long as each read fills its buffer. A
protocol with turns feeds one slice, pauses reading, and feeds the next slice in the next turn of the loop.
Reading resumes when no slice is left, so one read is all that is ever held. A protocol whose slices are dear
takes them among all connections (`turnstile`).
"""

import asyncio
from typing import Any, cast

from gateway.transport.turnstile import TURNSTILE, Turnstile


class Turns(asyncio.Protocol):
    """A base of protocols: put it before uvicorn's class, and define `feed` in place of `data_received`.

    The protocol has `loop` and `transport`. It pauses and resumes reading by the methods here, never on the
    transport, so that the turns do not resume what it has paused, nor it them. Before it hands its connection
    over it calls `take_unfed`.
    """

    slice_bytes = 4096
    """The most that is fed in one turn of the loop."""

    free_bytes = 0
    """The most that is fed without asking for a turn, where nothing waits."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    # On the class, so that a connection pays for them only once it sends more than a slice at a time.
    _unfed: bytes | memoryview = b""
    _asked = False
    _held = False
    _over = False

    def feed(self, data: bytes) -> None:
        """Take what came: at most `slice_bytes`."""
        raise NotImplementedError

    def may_feed(self) -> bool:
        """Return whether a slice may be fed in this pass; else `enter` is called in one where it may."""
        return True

    def enter(self) -> None:
        """Feed a slice of what waits: this is its turn."""
        self._asked = False
        if self._unfed:
            self._feed_slice()

    def data_received(self, data: bytes) -> None:
        """Feed what came: at once if it fits into a slice, nothing waits before it, and it may be."""
        if self._unfed:
            self._unfed = memoryview(bytes(self._unfed) + data)
            return
        size = len(data)
        now = size <= self.free_bytes or self.may_feed()
        if now and size <= self.slice_bytes:
            self.feed(data)
            return
        self._unfed = memoryview(data)
        self.transport.pause_reading()
        if now:
            self._feed_slice()
        else:
            self._asked = True

    def feed_first(self, data: bytes) -> None:
        """Have this fed in turns, before what waits."""
        self._unfed = memoryview(data + bytes(self._unfed))
        self.transport.pause_reading()
        self._go_on()

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
        self._asked = False
        self._go_on()
        self._over = True
        return unfed

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what waits."""
        self.take_unfed()
        super().connection_lost(exc)

    def _feed_slice(self) -> None:
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
        elif self._over or self._asked:
            return
        elif self._unfed:
            self._asked = True
            if self.may_feed():
                self.loop.call_soon(self.enter)
        else:
            self.transport.resume_reading()


class SharedTurns(Turns):
    """Turns that are taken among all connections, by network. The protocol has `app_state` and `client`."""

    app_state: dict[str, Any]
    client: tuple[str, int] | None

    def may_feed(self) -> bool:
        """Return whether a slice may be fed in this pass of the loop, with those of other connections."""
        address = self.client[0] if self.client else ""
        return cast("Turnstile", self.app_state[TURNSTILE]).passes(address, self.enter)
