"""Pipelining: the bytes after a request wait, unparsed, until that request is answered.

uvicorn parses all received bytes, and a parsed request takes twenty times its size in memory. This protocol
parses the next request when the response is complete and the client has read its responses. Until then it
pauses reading. Each request, and each step of a body in chunks, needs a turn of its own from the `turnstile`.
"""

from http import HTTPStatus

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from gateway.transport.chunked import ChunkedBody
from gateway.transport.fast_path import FastPathProtocol
from gateway.transport.framing import EMPTY_LINE, MAX_HEAD_BYTES, PartialHead, Refused, end_of_line_ends
from gateway.transport.held_bytes import MAX_UNCOUNTED_BYTES
from gateway.transport.socket_buffers import has_left, widen

MAX_UNWANTED_BYTES = 16 * 1024 * 1024
"""Maximum number of bytes of a body that are read and dropped after the response: twice the largest body.

This lets a client that sends its whole body before it reads get its response, and reuse the connection.
Otherwise a reset would discard the response or the client's next request.
"""

MAX_UNWANTED_CHUNKS = 4096
"""Maximum number of chunks of such a body. Further bytes are dropped unread, and the connection ends."""

CHUNKED = -1
"""The value of `_body_left` for a body in chunks, whose length isn't known in advance."""


class PipeliningProtocol(FastPathProtocol):
    """uvicorn's HTTP protocol, which parses one request at a time.

    A subclass defines `_parse`, `_hand_over`, `_await` and `_refuse`.
    """

    # Defaults on the class, so that a connection uses memory only for the attributes that it sets.
    _chunks: ChunkedBody | None = None
    _body_left = 0
    _widened = False
    _dropped_lines = 0
    _line_end_bytes = 0
    unparsed_at = 0
    _held = False
    _over = False
    _queued = False
    _admitted = False
    _is_handshake = False

    def _parse(self, piece: bytes) -> bool:
        """Parse bytes of one request, and return whether they end the head of a WebSocket handshake."""
        raise NotImplementedError

    def _hand_over(self, rest: bytes) -> None:
        """Hand the connection over to a WebSocket. `rest` holds the bytes after the handshake."""
        raise NotImplementedError

    def _await(self) -> None:
        """Set the deadline for the next head, or for the rest of the body."""
        raise NotImplementedError

    # --- what the event loop calls --------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the unparsed bytes. They never became a request, so nothing fails."""
        self._stop_taking()
        # uvicorn keeps this timer after a reset. It would hold the connection for as long as it runs.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Continue with the waiting bytes: the client has read its responses."""
        super().resume_writing()
        if self.unparsed:
            self.loop.call_soon(self._go_on)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes of one request. The bytes after it wait."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._over:
            self._drop(len(data))
        elif self.unparsed:
            self.unparsed += data
            self._count_held()
        else:
            self._take(data, 0)

    def on_response_complete(self) -> None:
        """Continue with the bytes after the request, in a turn of their own."""
        super().on_response_complete()
        if self.unparsed:
            self.loop.call_soon(self._go_on)
        elif self.timeout_keep_alive_task is None:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless its client is still reading a response."""
        if self.flow.write_paused:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._close()

    # --- from bytes to a request ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Parse more of the waiting bytes."""
        if self.unparsed and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            data, self.unparsed = self.unparsed, b""
            self._count_held()
            try:
                self._take(data, self.unparsed_at)
            except BaseException:
                # The event loop aborts if `data_received` fails, but not if a scheduled callback does.
                self.transport.abort()
                raise

    def _take(self, data: bytes, at: int) -> None:
        size, has_turn = len(data), False
        while at < size and not self._over:
            if not (has_turn or self._may_go_on()):
                self._wait(data, at)
                break
            if not self._body_left:
                at = self._take_head(data, at)
                # The part of the body in the same piece is decoded in the turn of the head.
                has_turn = self._chunks is not None
                continue
            at, has_turn = self._take_body(data, at), False
            if at < size and self._chunks is not None:
                self._wait(data, at)
                self._ask_for_turn()
                break
        if not self._over:
            if self._held and not self.unparsed:
                self._read_again()
            self._await()
            if self._is_worth_counting():
                self._count_held()

    def _may_go_on(self) -> bool:
        """Return whether received bytes, of a body or of the next request, may be parsed now."""
        if self._body_left:
            return self._chunks is None or self._may_begin()
        return (
            (cycle := self.cycle) is None or (cycle.response_complete and not self.flow.write_paused)
        ) and self._may_begin()

    def _may_begin(self) -> bool:
        """Return whether a piece of a head, or a step of a body, may be parsed in this pass of the loop."""
        if self._admitted:
            self._admitted = False
            return True
        if not self._queued:
            self._queued = not self.turnstile.passes(self._address(), self._enter)
        return not self._queued

    def _ask_for_turn(self) -> None:
        """Queue the waiting bytes for a later pass of the loop: this connection has had its turn."""
        if not self._queued:
            self._queued = True
            if self.turnstile.passes(self._address(), self._enter):
                self.loop.call_soon(self._enter)

    def _enter(self) -> None:
        """Continue with the waiting bytes: this is their turn. A client that has left needs no answer."""
        self._queued = False
        if self._has_left():
            self._hang_up()
            return
        self._admitted = not self._over
        self._go_on()

    def _has_left(self) -> bool:
        """Return whether the client left before its next request began.

        Reading is paused, so the event loop hasn't noticed. The client may still read the last answer.
        """
        if self._body_left or self._is_answering() or self.transport.is_closing():
            return False
        return has_left(self.transport)

    def _wait(self, data: bytes, at: int) -> None:
        self.unparsed, self.unparsed_at = data, at
        self._block_reading()
        self._count_held()

    def _block_reading(self) -> None:
        """Stop reading, even if the application asks for more of a body."""
        self._held = True
        self.flow.pause_reading()
        self.flow.resume_reading = _keep_paused  # type: ignore[method-assign]

    def _unblock_reading(self) -> None:
        if self._held:
            self._held = False
            del self.flow.resume_reading

    def _read_again(self) -> None:
        self._unblock_reading()
        # If the application hasn't taken the received body yet, reading resumes when it does.
        if not self._is_answering() or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _take_head(self, data: bytes, at: int) -> int:
        """Parse a head, or the part of it in `data`, and return the index after it."""
        if self._head is not None:
            return self._take_piece(self._head, data, at)
        if data[at] in b"\r\n":
            return self._skip_line_ends(data, at)
        found = data.find(EMPTY_LINE, at, at + MAX_HEAD_BYTES)
        if found < 0:
            return self._take_piece(PartialHead(), data, at)
        end = found + len(EMPTY_LINE)
        if self._line_end_bytes:
            self._line_end_bytes = 0
        self._head_bytes = end - at
        if end - at > MAX_UNCOUNTED_BYTES:
            self._count_held()
            if self._over:
                return end
        if self._parse(data[at:end]):
            self._hand_over(data[end:])
        return end

    def _take_piece(self, head: PartialHead, data: bytes, at: int) -> int:
        try:
            piece, end = head.add(data, at)
        except Refused as refused:
            self._refuse(refused.status, refused.detail)
            return len(data)
        self._head, self._head_bytes = (None, head.size) if head.whole else (head, 0)
        self._line_end_bytes = 0
        self._count_held()
        if self._over:
            return len(data)
        if piece and self._parse(piece):
            self._hand_over(data[end:])
        return end

    def _skip_line_ends(self, data: bytes, at: int) -> int:
        end = end_of_line_ends(data, at)
        self._line_end_bytes += end - at
        if self._line_end_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head is over 64 KiB.")
        return end

    def _take_body(self, data: bytes, at: int) -> int:
        """Parse as much of a body as one step may, and return the index after it."""
        if self._chunks is not None:
            end = self._take_chunks(self._chunks, data, at)
        else:
            end = min(at + self._body_left, len(data))
            self._body_left -= end - at
            self._parse(data[at:end])
        if self.cycle.response_complete:
            self._drop_body(end - at)
        return end

    def _take_chunks(self, chunks: ChunkedBody, data: bytes, at: int) -> int:
        before = chunks.lines
        try:
            body, end = chunks.take(data, at)
        except Refused as refused:
            self._refuse(refused.status, refused.detail)
            return len(data)
        if body:
            self.on_body(body)
        if self.cycle.response_complete:
            self._dropped_lines += chunks.lines - before
        if chunks.whole:
            # A new parser: the old one still waits for the body, which it never got.
            self.parser = httptools.HttpRequestParser(self)
            self.on_message_complete()
        return end

    def _drop_body(self, size: int) -> None:
        """Count the bytes of a body that arrive after the response, and hang up if there are too many."""
        self._dropped_bytes += size
        if self._dropped_bytes > MAX_UNWANTED_BYTES or self._dropped_lines > MAX_UNWANTED_CHUNKS:
            self._hang_up()
        elif not self._body_left and not self._over:
            self._dropped_bytes = self._dropped_lines = 0
            self._await()

    # --- what the parser calls ------------------------------------------------------------------------------

    def _find_upgrade(self) -> bool:
        """Return whether the head asks for a WebSocket, and keep that for `_should_upgrade`."""
        self._is_handshake = super()._should_upgrade()
        return self._is_handshake

    def _should_upgrade(self) -> bool:
        """Return whether the head asks for a WebSocket. uvicorn would search it for each call."""
        return self._is_handshake

    def _expect_chunks(self) -> None:
        """Prepare for a body in chunks."""
        self._body_left, self._chunks = CHUNKED, ChunkedBody()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body for the application, unless it has responded."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            self._body_bytes += len(body)
            # So much arrives only if the application reads the body, so a larger buffer is safe.
            if self._body_bytes > 2 * HIGH_WATER_LIMIT and not self._widened:
                self._widened = True
                widen(self.transport)
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Mark the body as complete. Skip a request to upgrade, which hasn't begun yet."""
        if not self.parser.should_upgrade():
            self._body_left = 0
            self._chunks = None
            if not self.cycle.response_complete:
                self.cycle.more_body = False
                self.cycle.message_event.set()

    # --- the end --------------------------------------------------------------------------------------------

    def _stop_taking(self) -> bytes:
        """Stop parsing, and return the unparsed bytes."""
        unparsed = self.unparsed[self.unparsed_at :]
        self._over = True
        self.unparsed = b""
        self._unblock_reading()
        self._head = self._chunks = None
        if self._held_bytes:
            self._release_held()
        return unparsed

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > MAX_UNWANTED_BYTES:
            self._block_reading()


def _keep_paused() -> None:
    """Do nothing: reading stays paused until the waiting bytes are parsed."""
