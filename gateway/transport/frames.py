"""The frames that a client sends: counted, and joined to messages.

- They are taken in turns among all connections (`turns`). Those that came before a refusal are dropped.
- One that is no whole message (a ping, a pong that answers no ping of ours, a fragment) counts as a command.
- The bytes of an unfinished message are counted (`turnstile`); without room for them the socket closes.
- Text that is not UTF-8 closes with 1007 and no more: uvicorn would log a traceback for each.
"""

from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode

from gateway.protocol.close_codes import Close
from gateway.transport.turns import SharedTurns
from gateway.transport.turnstile import TURNSTILE

MAX_UNCOUNTED = 4096
"""How many bytes a client may send while its frames are not counted: before it is served, after a close.

An unfinished message of so many bytes is not counted either.
"""

MAX_FRAGMENTS = 64
"""How many fragments of a message are kept apart."""


class FramesProtocol(SharedTurns, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol as far as it takes frames. A subclass says how a connection ends."""

    slice_bytes = 1024
    """At most 170 frames: 1 to 2 ms."""

    free_bytes = 64
    """At most 10 frames, or the answer to a ping."""

    message_bytes = 0
    """Bytes of an unfinished message, as they are counted."""

    _early = b""
    _uncounted = 0
    _late_pong = b""
    _count_frame: Callable[[], None] | None = None

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame, and take nothing more."""
        raise NotImplementedError

    def _cut_off_in_time(self) -> None:
        """Have the connection end, whether its client reads or not."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take what came; what comes before the handshake is answered waits for that."""
        if self._count_frame is None:
            self._uncounted += len(data)
            if self._uncounted > MAX_UNCOUNTED:
                self._stop_listening()
                return
        if self.handshake_complete:
            self._parse(data)
        else:
            self._early += data

    def _stop_listening(self) -> None:
        """Read no more from a client whose frames are not counted.

        One that has been sent a close keeps its time to read that: a reset would take it away.
        """
        if self.close_sent:
            self.take_unfed()
            self.transport.pause_reading()
        else:
            self.transport.abort()

    def _feed_early(self) -> None:
        early, self._early = self._early, b""
        self._uncounted -= len(early)
        self.feed_first(early)

    def _parse(self, data: bytes) -> None:
        self.conn.receive_data(data)
        if self.conn.parser_exc is None:
            self.handle_events()
            size = len(self.conn.reader.buffer) + sum(map(len, self.frames))
            if size > MAX_UNCOUNTED or self.message_bytes:
                self.count_message(size)
        else:
            self.handle_parser_exception()
            self._cut_off_in_time()

    def count_message(self, size: int) -> None:
        """Count an unfinished message of this size. Close the socket where there is no room for it."""
        more, self.message_bytes = size - self.message_bytes, size
        address = self.client[0] if self.client else ""
        if more and not self.app_state[TURNSTILE].hold(address, more):
            self.frames.clear()
            self.close_at_once(Close.OVERLOADED, "overloaded")

    def handle_events(self) -> None:
        """Handle the frames that came. After a close only the answer to it is one."""
        for event in self.conn.events_received():
            frame = cast("Frame", event)
            if not self.close_sent and self._is_counted(frame) and self._count_frame is not None:
                self._count_frame()
            if frame.opcode is Opcode.CLOSE:
                self.handle_close(frame)
            elif not self.close_sent:
                self._handle_frame(frame)

    def _is_counted(self, frame: Frame) -> bool:
        """Return whether it is to be counted here: a whole message is counted by who receives it."""
        if frame.opcode is Opcode.PONG:
            return frame.data != self.pending_ping_payload
        return frame.opcode is Opcode.PING or not frame.fin

    def _handle_frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT:
                self.handle_text(frame)
            case Opcode.BINARY:
                self.handle_bytes(frame)
            case Opcode.CONT:
                self.handle_cont(frame)
            case Opcode.PING:
                self.handle_ping()
            case Opcode.PONG:
                self.handle_pong(frame)

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment. Many small ones, of which each is an object, are joined meanwhile."""
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer; a client that does not read gets the answer to its newest ping only (RFC 6455, 5.5.3)."""
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._late_pong = pongs[-1]

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        late, self._late_pong = self._late_pong, b""
        if late and not self.close_sent:
            self.transport.write(late)
        super().resume_writing()

    def send_receive_event_to_app(self) -> None:
        """Hand on a message, and feed no more until it is taken.

        One that claims to be text and is none ends the connection (RFC 6455, section 8.1).
        """
        data, self.frames = b"".join(self.frames), []
        message: dict[str, Any] = {"type": "websocket.receive", "bytes": data}
        if self.curr_msg_data_type == "text":
            try:
                message = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self.close_at_once(Close.INVALID_DATA, "invalid_utf8")
                return
        self.queue.put_nowait(cast("Any", message))
        self.pause_reading()

    async def receive(self) -> Any:
        """Return the next message, as ASGI does, and go on feeding when there is no other."""
        message = await self.queue.get()
        if self._held and self.queue.empty():
            self.resume_reading()
        return message
