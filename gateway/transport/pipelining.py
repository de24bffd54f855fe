"""Pipelining: what a client sends behind a request waits, as it came, until that one is answered.

uvicorn parses all that it is sent, and keeps a parsed request at twenty times its size. Here the next request
is parsed when the answer is complete and the client has read its answers; until then reading is paused. Each
request, and each step of a body in chunks, has a turn of its own, which the `turnstile` gives.
"""

from http import HTTPStatus

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from gateway.transport.chunked import ChunkedBody
from gateway.transport.framing import EMPTY_LINE, MAX_HEAD, PartialHead, Refused, end_of_line_ends
from gateway.transport.held_bytes import UNCOUNTED, HoldingProtocol
from gateway.transport.socket_buffers import widen

MAX_UNWANTED = 16 * 1024 * 1024
"""Most bytes of a body that are read, and dropped, after the answer: twice the largest body.

A client that sends its whole body before it reads gets its answer so, and may go on with the connection. It
would be reset otherwise, and lose the answer or its next request.
"""

MAX_UNWANTED_CHUNKS = 4096
"""Most chunks of such a body. What comes behind them is dropped unread, and the connection ends."""

CHUNKED = -1
"""The length of a body that only its chunks tell."""


class PipeliningProtocol(HoldingProtocol):
    """uvicorn's HTTP protocol, which parses one request at a time.

    A subclass says how a piece is parsed, what a handshake and a refusal do, and what is waited for.
    """

    # On the class, so that a connection pays only for what it needs.
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

    def _parse(self, piece: bytes) -> bool:
        """Parse what belongs to one request, and return whether it is the head of a WebSocket handshake."""
        raise NotImplementedError

    def _hand_over(self, rest: bytes) -> None:
        """Hand the connection over to a WebSocket; `rest` came behind the handshake."""
        raise NotImplementedError

    def _await(self) -> None:
        """Set the deadline for what the client has yet to send."""
        raise NotImplementedError

    # --- what the event loop calls --------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what was not parsed: it has become no request, and fails nowhere."""
        self._stop_taking()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        if self.unparsed:
            self.loop.call_soon(self._go_on)

    def data_received(self, data: bytes) -> None:
        """Parse what belongs to one request; what comes behind it waits."""
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
        """Go on with what came behind the request, in a turn of its own."""
        super().on_response_complete()
        if self.unparsed:
            self.loop.call_soon(self._go_on)
        elif self.timeout_keep_alive_task is None:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection on which no further request comes, unless its client still reads an answer."""
        if self.flow.write_paused:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._close()

    # --- from bytes to a request ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Parse more of what waits."""
        if self.unparsed and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            data, self.unparsed = self.unparsed, b""
            self._count_held()
            try:
                self._take(data, self.unparsed_at)
            except BaseException:
                # The event loop does so where `data_received` fails.
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
                # What came of its body in the same piece is decoded in the turn of the head.
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
        """Return whether what has come may be parsed now: a body, or the next request."""
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
        """Have what waits go on in a later pass of the loop: this one has had its turn."""
        if not self._queued:
            self._queued = True
            if self.turnstile.passes(self._address(), self._enter):
                self.loop.call_soon(self._enter)

    def _enter(self) -> None:
        """Go on: this is its turn."""
        self._queued = False
        self._admitted = not self._over
        self._go_on()

    def _wait(self, data: bytes, at: int) -> None:
        self.unparsed, self.unparsed_at = data, at
        self._hold()
        self._count_held()

    def _hold(self) -> None:
        """Do not read, even where the application asks for more of a body."""
        self._held = True
        self.flow.pause_reading()
        self.flow.resume_reading = _hold_on  # type: ignore[method-assign]

    def _let_go(self) -> None:
        if self._held:
            self._held = False
            del self.flow.resume_reading

    def _read_again(self) -> None:
        self._let_go()
        # Where the application has not taken what there is, it reads on when it does.
        if not self._is_answering() or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _take_head(self, data: bytes, at: int) -> int:
        """Parse a head, or what there is of it, and return where it ends."""
        if self._head is not None:
            return self._take_piece(self._head, data, at)
        if data[at] in b"\r\n":
            return self._skip_line_ends(data, at)
        found = data.find(EMPTY_LINE, at, at + MAX_HEAD)
        if found < 0:
            return self._take_piece(PartialHead(), data, at)
        end = found + len(EMPTY_LINE)
        if self._line_end_bytes:
            self._line_end_bytes = 0
        self._head_bytes = end - at
        if end - at > UNCOUNTED:
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
        if self._line_end_bytes > MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head is over 64 KiB.")
        return end

    def _take_body(self, data: bytes, at: int) -> int:
        """Parse of a body what may be parsed at once, and return where that ends."""
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
            # The parser waits for the body that it was not given.
            self.parser = httptools.HttpRequestParser(self)
            self.on_message_complete()
        return end

    def _drop_body(self, size: int) -> None:
        """Count what was sent of a body after the answer, and hang up where it does not end."""
        self._dropped_bytes += size
        if self._dropped_bytes > MAX_UNWANTED or self._dropped_lines > MAX_UNWANTED_CHUNKS:
            self._hang_up()
        elif not self._body_left and not self._over:
            self._dropped_bytes = self._dropped_lines = 0
            self._await()

    # --- what the parser calls ------------------------------------------------------------------------------

    def _expect_chunks(self) -> None:
        """Take note that the body comes in chunks."""
        self._body_left, self._chunks = CHUNKED, ChunkedBody()

    def on_body(self, body: bytes) -> None:
        """Keep it for the application, unless that has answered."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            self._body_bytes += len(body)
            # The application has asked for it: no more than this is taken before it does.
            if self._body_bytes > 2 * HIGH_WATER_LIMIT and not self._widened:
                self._widened = True
                widen(self.transport)
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Take note that a body is whole; what would upgrade has not begun."""
        if not self.parser.should_upgrade():
            self._body_left = 0
            self._chunks = None
            if not self.cycle.response_complete:
                self.cycle.more_body = False
                self.cycle.message_event.set()

    # --- the end --------------------------------------------------------------------------------------------

    def _stop_taking(self) -> bytes:
        """Parse nothing more, and return what was not."""
        unparsed = self.unparsed[self.unparsed_at :]
        self._over = True
        self.unparsed = b""
        self._let_go()
        self._head = self._chunks = None
        if self._held_bytes:
            self._release_held()
        return unparsed

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > MAX_UNWANTED:
            self._hold()


def _hold_on() -> None:
    """Do nothing: what has come is not parsed yet."""
