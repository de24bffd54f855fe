"""Lingering: keeping a connection that ends open for a while, so that its client can read the last bytes."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.transport.socket_buffers import cut_off

LINGER_SECONDS = 5.0
"""How long a refused or ended connection waits for its client to read what was written, in seconds."""

LINGER_BYTES = 8192
"""Minimum number of bytes that a client must read in that time, for the wait to be repeated.

That is 1.6 KB a second.
"""


class LingeringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which ends a connection after the written bytes.

    A subclass defines `_stop_taking`.
    """

    # Defaults on the class, so that a connection uses memory only for the attributes that it sets.
    _lingering: asyncio.TimerHandle | None = None
    _dropped_bytes = 0

    def _stop_taking(self) -> bytes:
        """Stop parsing, and return the unparsed bytes."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the wait."""
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        """End the connection after the written bytes, while the client may still be sending.

        After a close, the kernel answers further bytes with a reset, and a reset discards a response that
        the client hasn't read yet. So this method closes only the sending side, and keeps reading a while.
        """
        self._stop_taking()
        self._dropped_bytes = 0
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._linger()

    def _close(self) -> None:
        """Close the connection after the written bytes. Abort it if the client doesn't read them."""
        self._stop_taking()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._linger()

    def _linger(self) -> None:
        if self._lingering is None:
            self._expect_end()

    def _expect_end(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._lingering = self.loop.call_later(LINGER_SECONDS, self._check_lingering, unread)

    def _check_lingering(self, before: int) -> None:
        """Abort the connection, unless its client keeps reading the remaining bytes."""
        unread = self.transport.get_write_buffer_size()
        if unread and unread <= before - LINGER_BYTES:
            self._expect_end()
        else:
            cut_off(self.transport)
