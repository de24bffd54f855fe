"""Client frames: counted, fed in turns, and joined into messages.

- Connections take turns at feeding their frames (`turns`). Frames that arrived before a refusal are dropped.
- A frame that isn't a whole message (a ping, an unsolicited pong, a fragment) counts as a command.
- The bytes of an unfinished message are counted (`turnstile`). Without room for them, the socket closes.
- Text that isn't UTF-8 closes the socket with 1007. uvicorn would also log a traceback for each.
"""

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode

from gateway.protocol.close_codes import Close
from gateway.transport.turns import SharedTurns
from gateway.transport.turnstile import TURNSTILE

MAX_UNCOUNTED_BYTES = 4096
"""Maximum number of bytes that a client may send while its frames aren't counted.

Frames aren't counted before the client is served, and after a close. An unfinished message up to this size
isn't counted either.
"""

MAX_FRAGMENTS = 64
"""Maximum number of fragments of a message that are kept separately before they are joined."""


class FramesProtocol(SharedTurns, WebSocketsSansIOProtocol):
    """The part of uvicorn's WebSocket protocol that takes frames. A subclass ends the connection."""

    slice_bytes = 1024
    """Maximum size of a slice in bytes: at most 170 frames, which take 1 to 2 ms."""

    free_bytes = 64
    """Maximum number of bytes fed without a turn: at most 10 frames, or the answer to a ping."""

    message_bytes = 0
    """Size of the unfinished message in bytes, as it is counted in the turnstile."""

    _early = b""
    _uncounted = 0
    _late_pong = b""
    _count_frame: Callable[[], None] | None = None

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame, and take no more messages."""
        raise NotImplementedError

    def _abort_unless_read(self) -> None:
        """Abort the connection if its client doesn't read the buffered bytes in time."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take received bytes. Bytes that arrive before the handshake is answered wait until it is."""
        if self._count_frame is None:
            self._uncounted += len(data)
            if self._uncounted > MAX_UNCOUNTED_BYTES:
                self._stop_listening()
                return
        if self.handshake_complete:
            self._parse(data)
        else:
            self._early += data

    def _stop_listening(self) -> None:
        """Stop reading from a client whose frames aren't counted.

        After a close frame, the client keeps its time to read it, because a reset would discard the frame.
        Otherwise the connection is aborted.
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
            if size > MAX_UNCOUNTED_BYTES or self.message_bytes:
                self.count_message(size)
        else:
            self.handle_parser_exception()
            self._abort_unless_read()

    def count_message(self, size: int) -> None:
        """Count an unfinished message of this size. Close the socket if there is no room for it."""
        more, self.message_bytes = size - self.message_bytes, size
        address = self.client[0] if self.client else ""
        if more and not self.app_state[TURNSTILE].hold(address, more):
            self.frames.clear()
            self.close_at_once(Close.OVERLOADED, "overloaded")

    def handle_events(self) -> None:
        """Handle the received frames. After a close was sent, handle only the answering close."""
        event: Any
        for event in self.conn.events_received():
            frame: Frame = event
            if not self.close_sent and self._is_counted(frame) and self._count_frame is not None:
                self._count_frame()
            if frame.opcode is Opcode.CLOSE:
                self.handle_close(frame)
            elif not self.close_sent:
                self._handle_frame(frame)

    def _is_counted(self, frame: Frame) -> bool:
        """Return whether to count the frame here. The receiver counts whole messages."""
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
        """Add a fragment. Many small fragments are joined early, because each is an object."""
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, or only the newest one if the client doesn't read (RFC 6455, 5.5.3)."""
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._late_pong = pongs[-1]

    def resume_writing(self) -> None:
        """Send the pong that waited, and continue writing: the client has read."""
        late, self._late_pong = self._late_pong, b""
        if late and not self.close_sent:
            self.transport.write(late)
        super().resume_writing()

    def send_receive_event_to_app(self) -> None:
        """Queue a message for the application, and feed no more frames until it is taken.

        A text message that isn't UTF-8 ends the connection (RFC 6455, section 8.1).
        """
        data, self.frames = b"".join(self.frames), []
        message: Any = {"type": "websocket.receive", "bytes": data}
        if self.curr_msg_data_type == "text":
            try:
                message = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self.close_at_once(Close.INVALID_DATA, "invalid_utf8")
                return
        self.queue.put_nowait(message)
        self.pause_reading()

    async def receive(self) -> Any:
        """Return the next message, as ASGI specifies. Resume feeding when no other message is queued."""
        message = await self.queue.get()
        if self._held and self.queue.empty():
            self.resume_reading()
        return message
