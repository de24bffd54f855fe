"""Turns: a protocol feeds its client's bytes in bounded slices, so that other connections get their turn.

An event loop that reads 256 KiB of small frames or requests would handle all of them before it serves another
client, and uvloop keeps reading a socket as long as each read fills its buffer. A protocol with turns feeds
one slice, pauses reading, and feeds the next slice in the next turn of the loop. Reading resumes when no
slice is left, so a connection never holds more than one read. A protocol whose slices are expensive shares
the turns among all connections (`turnstile`). Small reads are free, unless very many arrive at once.
"""

import asyncio
from typing import Any, cast

from gateway.transport.turnstile import TURNSTILE, Turnstile


class Turns(asyncio.Protocol):
    """A base class for protocols. List it before uvicorn's class, and define `feed`, not `data_received`.

    The protocol must set `loop` and `transport`. It must pause and resume reading with the methods here,
    never on the transport, so that it and the turns don't resume each other's pauses. It must call
    `take_unfed` before it hands its connection over.
    """

    slice_bytes = 4096
    """Maximum number of bytes fed in one turn of the loop."""

    free_bytes = 0
    """Maximum size of a read that `may_feed_small` decides on, if no bytes wait."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    # Defaults on the class: a connection sets these only once it sends more than a slice at a time.
    _unfed: bytes | memoryview = b""
    _asked = False
    _held = False
    _over = False

    def feed(self, data: bytes) -> None:
        """Take received bytes: at most `slice_bytes`."""
        raise NotImplementedError

    def may_feed(self) -> bool:
        """Return whether a slice may be fed in this pass. If not, arrange for `enter` to be called later."""
        return True

    def may_feed_small(self, _: int, /) -> bool:
        """Return the same for a read of at most `free_bytes`, given its size."""
        return True

    def enter(self) -> None:
        """Feed a slice of the waiting bytes: this is their turn."""
        self._asked = False
        if self._unfed:
            self._feed_slice()

    def data_received(self, data: bytes) -> None:
        """Feed received bytes: at once if no others wait, they fit into a slice, and a turn is free."""
        if self._unfed:
            self._unfed = memoryview(bytes(self._unfed) + data)
            return
        size = len(data)
        now = self.may_feed_small(size) if size <= self.free_bytes else self.may_feed()
        if now and size <= self.slice_bytes:
            self.feed(data)
            return
        self._unfed = data if size <= self.slice_bytes else memoryview(data)
        self.transport.pause_reading()
        if now:
            self._feed_slice()
        else:
            self._asked = True

    def feed_first(self, data: bytes) -> None:
        """Feed `data` in turns, before the waiting bytes."""
        self._unfed = memoryview(data + bytes(self._unfed))
        self.transport.pause_reading()
        self._go_on()

    def pause_reading(self) -> None:
        """Stop reading and feeding until `resume_reading`."""
        self._held = True
        if not self._over:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Feed the waiting bytes, one slice per turn; then read again."""
        self._held = False
        self._go_on()

    def take_unfed(self) -> bytes:
        """Return the waiting bytes, end the turns, and let the transport read.

        Called within `feed`, it returns the bytes after the slice that is being fed. From then on, this
        protocol neither pauses nor resumes the transport.
        """
        unfed, self._unfed = bytes(self._unfed), b""
        self._asked = False
        self._go_on()
        self._over = True
        return unfed

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the waiting bytes."""
        self.take_unfed()
        super().connection_lost(exc)

    def _feed_slice(self) -> None:
        if self._held or self.transport.is_closing():
            return
        data = bytes(self._unfed[: self.slice_bytes])
        # An empty view would keep the whole read in memory.
        self._unfed = self._unfed[self.slice_bytes :] or b""
        try:
            self.feed(data)
        except BaseException:
            # The loop aborts if `data_received` fails, but not if a scheduled callback does.
            self.transport.abort()
            raise
        if not self._held:
            self._go_on()

    def _go_on(self) -> None:
        """Feed the next slice in the next turn, or read if none waits, unless the transport is closing."""
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
    """Turns that all connections share, by network. The protocol must set `app_state` and `client`."""

    app_state: dict[str, Any]
    client: tuple[str, int] | None

    def may_feed(self) -> bool:
        """Return whether a slice may be fed in this pass of the loop, given those of other connections."""
        address = self.client[0] if self.client else ""
        return cast("Turnstile", self.app_state[TURNSTILE]).passes(address, self.enter)

    def may_feed_small(self, size: int, /) -> bool:
        """Return whether few small reads have come at once, over all connections."""
        address = self.client[0] if self.client else ""
        turnstile: Turnstile = self.app_state[TURNSTILE]
        return turnstile.passes_small(size, address, self.enter)
