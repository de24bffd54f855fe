"""Lingering: how long a connection that ends is kept for its client to read what was written."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGER = 5.0
"""How long a connection that was refused, or has ended, waits for its client to read that, in seconds."""

LINGER_BYTES = 8192
"""How much a client must read of what is left in that time to be waited for again: 1.6 KB a second."""


class LingeringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which ends behind what was written. A subclass says what it stops taking."""

    # On the class, so that a connection pays only for what it needs.
    _lingering: asyncio.TimerHandle | None = None
    _dropped_bytes = 0

    def _stop_taking(self) -> bytes:
        """Parse nothing more, and return what was not."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        """End the connection behind what was written; the client may be sending.

        What it sends after a close would be answered with a reset, which takes an answer with it that the
        client has not read yet. So this end says that it is done, and reads a little on.
        """
        self._stop_taking()
        self._dropped_bytes = 0
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._linger()

    def _close(self) -> None:
        """Close the connection behind what was written, whether its client reads that or not."""
        self._stop_taking()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._linger()

    def _linger(self) -> None:
        if self._lingering is None:
            self._expect_end()

    def _expect_end(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._lingering = self.loop.call_later(LINGER, self._look_whether_it_ends, unread)

    def _look_whether_it_ends(self, before: int) -> None:
        """Cut the connection off, unless its client goes on reading what is left."""
        unread = self.transport.get_write_buffer_size()
        if unread and unread <= before - LINGER_BYTES:
            self._expect_end()
        else:
            self.transport.abort()
