"""The inbound side of an open WebSocket: a client's frames, counted, fed in turns, and joined into messages.

- Connections take turns at feeding their frames (`turns`).
- While a command waits, its client's next command waits, too. Pings and a close in between are still handled.
- A frame that isn't a whole message (a ping, an unsolicited pong, a fragment) counts as a command.
- The bytes of a message that is unfinished or waits are counted (`turnstile`). Without room for them, the
  socket closes.
"""

from typing import Protocol

from gateway.protocol.close_codes import Close
from gateway.protocol.wire import MAX_FRAME
from gateway.transport.frames import BadFrame, Frame, Opcode, decode_text, parse_frame, protocol_error
from gateway.transport.turns import SharedTurns
from gateway.transport.turnstile import TURNSTILE

MAX_UNCOUNTED_BYTES = 4096
"""Maximum number of bytes that a client may send while its frames aren't counted.

Frames aren't counted before the client is served, and after a close. An unfinished message up to this size
isn't counted either.
"""


class Client(Protocol):
    """The connection that an open socket belongs to."""

    def begin(self) -> None:
        """Begin delivery."""

    def receive(self, message: str | bytes) -> bool:
        """Take a message: the text, or the bytes of a binary one.

        Return False if it is executed. Otherwise, `resume_reading` is called when it is.
        """

    def count_frame(self) -> None:
        """Count a frame that isn't a whole message, and close the socket if there are too many."""

    def leave(self) -> None:
        """Stop delivery: the client has gone, or was closed."""


class InboundProtocol(SharedTurns):
    """The part of an open socket that takes frames. A subclass closes the connection, and answers pings."""

    slice_bytes = 1024
    """Maximum size of a slice in bytes: at most 170 frames, which take 1 to 2 ms."""

    free_bytes = 64
    """Maximum size of a small read: at most 10 frames, or the answer to a ping."""

    # Defaults on the class, so that a socket uses memory only for the attributes that it sets.
    message_bytes = 0
    """Size of the unfinished and the waiting message in bytes, as it is counted in the turnstile."""

    _received: bytearray | None = None
    _message: bytearray | None = None
    _is_text = False
    _executing = False
    """Whether a command is being executed in a task."""

    _next: str | bytes | None = None
    """The message behind that command."""

    _uncounted = 0
    _open = True
    """Whether neither side has closed the socket."""

    _deaf = False
    """Whether the rest of the client's bytes is dropped."""

    _ping: bytes | None = None
    _client: Client | None = None

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame, and take no more messages."""
        raise NotImplementedError

    def _fail(self, bad: BadFrame) -> None:
        """Close a client whose bytes break the protocol, and read no more (RFC 6455, section 7.1.7)."""
        raise NotImplementedError

    def _handle_close(self, data: bytes) -> None:
        """Answer the client's close frame, or handle its answer to ours."""
        raise NotImplementedError

    def _answer_ping(self, data: bytes) -> None:
        """Answer a ping (RFC 6455, section 5.5.3)."""
        raise NotImplementedError

    def _take_pong(self, data: bytes) -> None:
        """Take the answer to a ping."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take received bytes, and handle the frames that they complete."""
        if not self._open or self._client is None:
            self._uncounted += len(data)
            if self._uncounted > MAX_UNCOUNTED_BYTES:
                self.stop_listening()
                return
        if not self._deaf:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Handle the received frames, up to the first message that must wait."""
        waiting, self._received = self._received, None
        if waiting is not None:
            waiting += data
        received, at = waiting or data, 0
        try:
            while not (self._held or self._deaf) and (found := parse_frame(received, at, self._room())):
                frame, at = found
                self._handle(frame)
        except BadFrame as bad:
            self._fail(bad)
        if self._deaf:
            return
        if at < len(received):
            self._received = bytearray(memoryview(received)[at:]) if at or waiting is None else waiting
        self._count_held()

    def _count_held(self) -> None:
        """Count the bytes of the unfinished message, and of the one that waits, unless they are few."""
        size = len(self._received or b"") + len(self._message or b"") + len(self._next or b"")
        if size > MAX_UNCOUNTED_BYTES or self.message_bytes:
            self._count_message(size)

    def _room(self) -> int:
        """Return how many bytes the next part of the message may have."""
        return MAX_FRAME - len(self._message or b"")

    def _count_message(self, size: int) -> None:
        """Count messages of this size. Close the socket if there is no room for them."""
        more, self.message_bytes = size - self.message_bytes, size
        address = self.client[0] if self.client else ""
        if more and not self.app_state[TURNSTILE].hold(address, more):
            self._message = None
            self.close_at_once(Close.OVERLOADED, "overloaded")

    def _handle(self, frame: Frame) -> None:
        """Handle a frame. After a close was sent, handle only the answering close."""
        if frame.opcode is Opcode.CLOSE:
            self._handle_close(frame.data)
            return
        if self._open and self._is_counted(frame) and self._client is not None:
            self._client.count_frame()
        if not self._open:
            return
        if frame.opcode is Opcode.PING:
            self._answer_ping(frame.data)
        elif frame.opcode is Opcode.PONG:
            self._take_pong(frame.data)
        else:
            self._join(frame)

    def _is_counted(self, frame: Frame) -> bool:
        """Return whether to count the frame here. The connection counts whole messages."""
        if frame.opcode is Opcode.PONG:
            return frame.data != self._ping
        return frame.opcode is Opcode.PING or not frame.fin

    def _join(self, frame: Frame) -> None:
        """Add a data frame to its message, and pass the message on once it is complete."""
        if (frame.opcode is Opcode.CONTINUATION) is (self._message is None):
            raise protocol_error()  # It continues nothing, or doesn't continue what it should.
        if self._message is None:
            self._is_text = frame.opcode is Opcode.TEXT
            if frame.fin:
                self._pass_on(frame.data)
            else:
                self._message = bytearray(frame.data)
        else:
            self._message += frame.data
            if frame.fin:
                message, self._message = self._message, None
                self._pass_on(message)

    def _pass_on(self, message: bytes | bytearray) -> None:
        received = decode_text(message) if self._is_text else bytes(message)
        if self._executing:
            self._next = received
            self.pause_reading()
        else:
            self._execute(received)

    def _execute(self, message: str | bytes) -> None:
        if self._client is not None:
            self._executing = self._client.receive(message)

    def resume_reading(self) -> None:
        """Pass on the message behind a command that was executed, then the frames after it."""
        self._executing = False
        message, self._next = self._next, None
        if message is not None and self._open:
            self._execute(message)
        if self.message_bytes:
            self._count_held()
        self._read_on()

    def _read_on(self) -> None:
        """Handle the frames that were held, then read more."""
        if self._held:
            self._held = False
            if self._received:
                self._parse(b"")
            if not self._held:
                super().resume_reading()

    def stop_listening(self) -> None:
        """Stop reading from a client whose frames aren't counted.

        After a close frame, the client keeps its time to read it, because a reset would discard the frame.
        Otherwise the connection is aborted.
        """
        if self._open:
            self.transport.abort()
        else:
            self.take_unfed()
            self.transport.pause_reading()
