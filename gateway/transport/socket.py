"""An open WebSocket: the frames of a client that was accepted, and the messages that it is sent (RFC 6455).

`websocket` hands the connection over once the handshake is complete. An open socket has no task, no queue and
nothing of the request: what it receives goes straight to its connection.

- Connections take turns at feeding their frames (`turns`), and no frame is parsed while a command waits.
- A frame that isn't a whole message (a ping, an unsolicited pong, a fragment) counts as a command.
- The bytes of an unfinished message are counted (`turnstile`). Without room for them, the socket closes.
- A close doesn't wait for a client that has stopped reading. After it, a client may send a few KiB more.
- A closing handshake without an answer is aborted after a timeout, so a stalled client holds no memory.
"""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from uvicorn.server import ServerState
from websockets.frames import CloseCode

from gateway.errors import Disconnected
from gateway.protocol.close_codes import Close
from gateway.protocol.wire import MAX_FRAME, Message
from gateway.transport.connections import CONNECTIONS, Place
from gateway.transport.frames import (
    BadFrame,
    Frame,
    Opcode,
    close_code,
    control_frame,
    decode_text,
    parse_frame,
    protocol_error,
)
from gateway.transport.turns import SharedTurns
from gateway.transport.turnstile import TURNSTILE
from gateway.transport.unsent import UnsentProtocol
from gateway.transport.writable import Writable

LINGER_SECONDS = 2.0
"""How long a client may take to answer a close frame, in seconds."""

MAX_UNCOUNTED_BYTES = 4096
"""Maximum number of bytes that a client may send while its frames aren't counted.

Frames aren't counted before the client is served, and after a close. An unfinished message up to this size
isn't counted either.
"""

CLOSED = "gateway.closed"
"""Key, in the lifespan's state, of the callback for each ended connection: `closed(code, by_client=…)`."""


class Client(Protocol):
    """The connection that an open socket belongs to."""

    def begin(self) -> None:
        """Begin delivery."""

    def receive(self, text: str | None) -> bool:
        """Take a text message, or None for a binary one.

        Return False if it is executed. Otherwise, `resume_reading` is called when it is.
        """

    def count_frame(self) -> None:
        """Count a frame that isn't a whole message, and close the socket if there are too many."""

    def leave(self) -> None:
        """Stop delivery: the client has gone, or was closed."""


class GatewaySocket(UnsentProtocol, SharedTurns):
    """The protocol of an open socket.

    `server` is uvicorn's state, through which its server closes the connection. `app_state` is the state that
    the lifespan yielded. `place` is the connection's place in `Connections`; this protocol releases it when
    the connection ends. `pings` are the interval and the timeout of pings, in seconds.
    """

    slice_bytes = 1024
    """Maximum size of a slice in bytes: at most 170 frames, which take 1 to 2 ms."""

    free_bytes = 64
    """Maximum number of bytes fed without a turn: at most 10 frames, or the answer to a ping."""

    # Defaults on the class, so that a socket uses memory only for the attributes that it sets.
    message_bytes = 0
    """Size of the unfinished message in bytes, as it is counted in the turnstile."""

    _received: bytearray | None = None
    _message: bytearray | None = None
    _is_text = False
    _uncounted = 0
    _late_pong = b""
    _ping: bytes | None = None
    _code = int(CloseCode.ABNORMAL_CLOSURE)
    _by_client = True
    _deaf = False
    _close_timer: asyncio.TimerHandle | None = None
    _client: Client | None = None

    def __init__(
        self,
        transport: asyncio.Transport,
        server: ServerState,
        app_state: dict[str, Any],
        place: Place | None,
        *,
        client: tuple[str, int] | None,
        pings: tuple[float, float],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = transport
        self.app_state = app_state
        self.client = client
        self.writable = Writable()
        self._server = server
        self._place = place
        self._pings = pings
        self._ping_due = self.loop.time() + pings[0]
        self._open = True
        server.connections.add(self)  # type: ignore[arg-type]
        transport.set_protocol(self)

    def hand_over(self, client: Client, address: str, early: bytes) -> None:
        """Serve a client, who has sent the bytes `early` before. `address` is that of the client."""
        self.address = address
        self._client = client
        client.begin()
        if early:
            self.feed_first(early)

    # --- what the client sends ------------------------------------------------------------------------------

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
        """Handle the received frames, up to the first command that waits."""
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
        size = len(self._received or b"") + len(self._message or b"")
        if size > MAX_UNCOUNTED_BYTES or self.message_bytes:
            self._count_message(size)

    def _room(self) -> int:
        """Return how many bytes the next part of the message may have."""
        return MAX_FRAME - len(self._message or b"")

    def _count_message(self, size: int) -> None:
        """Count an unfinished message of this size. Close the socket if there is no room for it."""
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
        client = self._client
        if client is not None and client.receive(decode_text(message) if self._is_text else None):
            self.pause_reading()

    def resume_reading(self) -> None:
        """Handle the frames behind a command that was executed, then read more."""
        self._held = False
        if self._received:
            self._parse(b"")
        if not self._held:
            super().resume_reading()

    def _answer_ping(self, data: bytes) -> None:
        """Answer a ping, or only the newest one if the client doesn't read (RFC 6455, 5.5.3)."""
        pong = control_frame(Opcode.PONG, data)
        if self.writable.is_set():
            self.transport.write(pong)
        else:
            self._late_pong = pong

    # --- pings ----------------------------------------------------------------------------------------------

    def check_ping(self) -> None:
        """Send a ping if it is time, or close the client if it hasn't answered the last one in time."""
        now = self.loop.time()
        if now < self._ping_due or not self._open:
            return
        if self._ping is not None:
            self.close_at_once(Close.TOO_SLOW, "ping_timeout")
        elif not self.transport.is_closing():
            # The payload tells the answer from a pong that nothing asked for.
            self._ping = random.getrandbits(32).to_bytes(4, "big")
            self._ping_due = now + self._pings[1]
            self.transport.write(control_frame(Opcode.PING, self._ping))

    def _take_pong(self, data: bytes) -> None:
        if data == self._ping:
            self._ping = None
            self._ping_due = self.loop.time() + self._pings[0]

    # --- what the connection calls --------------------------------------------------------------------------

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task of the server, which it waits for when it stops."""
        task = self.loop.create_task(steps)
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def write_messages(self, messages: Sequence[Message]) -> bool:
        """Write messages as frames unless the client lags or has gone. Return whether they were written."""
        if not self._open or not self.writable.is_set() or self.transport.is_closing():
            return False
        # One write for all: a write costs several times as much as the rest of a message.
        self.transport.write(b"".join([message.frame for message in messages]))
        return True

    async def send_message(self, message: Message) -> None:
        """Write a message as a frame, waiting while the client doesn't read. Raises `Disconnected`."""
        if not self.writable.is_set():
            await self.writable.wait()
        if not self.write_messages((message,)):
            raise Disconnected

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame after the buffered bytes, and abort if the client doesn't answer in time."""
        if not self._open or self.transport.is_closing():
            return
        self._code, self._by_client = code, False
        self.transport.write(control_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode()))
        self._end()
        self._uncounted = 0
        self.resume_reading()
        self._close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    # --- the end --------------------------------------------------------------------------------------------

    def _handle_close(self, data: bytes) -> None:
        """Answer the client's close frame with the same, or handle its answer to ours."""
        code = close_code(data)
        if self._open:
            self._code = code
            self.transport.write(control_frame(Opcode.CLOSE, data))
            self._end()
        self._deaf = True
        # A timer keeps running: an answer doesn't prove that the client reads.
        self._hang_up()

    def _fail(self, bad: BadFrame) -> None:
        """Close a client whose bytes break the protocol, and read no more (RFC 6455, section 7.1.7)."""
        self._deaf = True
        self._message = None
        self.close_at_once(bad.code, bad.reason)
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the transport, and abort it later if the client doesn't read the buffered bytes."""
        self.transport.close()
        if self._close_timer is None and self.transport.get_write_buffer_size():
            self._close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _end(self) -> None:
        self._open = False
        # Wake waiting senders, which then raise `Disconnected`.
        self.writable.set()
        if self._client is not None:
            self._client.leave()

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

    # --- what the event loop and uvicorn call ---------------------------------------------------------------

    def pause_writing(self) -> None:
        """Block senders until the client reads."""
        super().pause_writing()
        self.writable.clear()

    def resume_writing(self) -> None:
        """Send the pong that waited, and unblock senders: the client has read."""
        super().resume_writing()
        late, self._late_pong = self._late_pong, b""
        if late and self._open:
            self.transport.write(late)
        self.writable.set()

    def eof_received(self) -> None:
        """Close the connection: a client that closes its sending side has left."""
        self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection's place and memory, and count the end.

        Break reference cycles: collecting them costs an eighth of a socket's CPU.
        """
        super().connection_lost(exc)
        self._server.connections.discard(self)
        if self._place is not None:
            self.app_state[CONNECTIONS].leave(self._place)
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._message = self._received = None
        self._count_message(0)
        self._end()
        self.app_state[CLOSED](self._code, by_client=self._by_client)
        self._client = None

    def shutdown(self) -> None:
        """Close with 1012 and wait for the answer, because the server is stopping.

        uvicorn would end the connection at once. The kernel would then answer the client's bytes in transit
        with a reset, which discards the close frame.
        """
        if self._open:
            self.close_at_once(Close.RESTART, "restart")
        elif self._code != Close.RESTART:
            self.transport.close()
