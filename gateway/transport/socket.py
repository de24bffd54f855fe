"""An open WebSocket: the connection of a client that was accepted (RFC 6455).

`websocket` hands the connection over once the handshake is complete. An open socket has no task and no queue,
and keeps nothing of the request: the frames that it receives (`inbound`) go straight to its connection.

- A close doesn't wait for a client that has stopped reading. Afterwards, a client may send a few KiB more.
- A closing handshake without an answer is aborted after a timeout, so a stalled client holds no memory.
"""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any

from uvicorn.server import ServerState
from websockets.frames import CloseCode

from gateway.protocol.close_codes import Close
from gateway.protocol.wire import Message
from gateway.transport.connections import CONNECTIONS, Place
from gateway.transport.frames import (
    BadFrame,
    Opcode,
    close_code,
    control_frame,
)
from gateway.transport.inbound import Client, InboundProtocol
from gateway.transport.socket_buffers import cut_off
from gateway.transport.unsent import UnsentProtocol
from gateway.transport.writable import Writable

LINGER_SECONDS = 2.0
"""How long a client may take to answer a close frame, in seconds."""

CLOSED = "gateway.closed"
"""Key, in the lifespan's state, of the callback for each ended connection: `closed(code, by_client=…)`."""


class GatewaySocket(UnsentProtocol, InboundProtocol):
    """The protocol of an open socket.

    `server` is uvicorn's state, through which its server closes the connection. `app_state` is the state that
    the lifespan yielded. `place` is the connection's place in `Connections`; this protocol releases it when
    the connection ends. `pings` are the interval and the timeout of pings, in seconds.
    """

    # Defaults on the class, so that a socket uses memory only for the attributes that it sets.
    packed = False
    """Whether the client has chosen MessagePack in binary frames."""

    _late_pong = b""
    _code = int(CloseCode.ABNORMAL_CLOSURE)
    _by_client = True
    _close_timer: asyncio.TimerHandle | None = None

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
        server.connections.add(self)  # type: ignore[arg-type]
        transport.set_protocol(self)

    def hand_over(self, client: Client, address: str, early: bytes) -> None:
        """Serve a client, who has sent the bytes `early` before. `address` is that of the client."""
        self.address = address
        self._client = client
        client.begin()
        if early:
            self.feed_first(early)

    # --- pings ----------------------------------------------------------------------------------------------

    def _answer_ping(self, data: bytes) -> None:
        """Answer a ping, or only the newest one if the client doesn't read (RFC 6455, 5.5.3)."""
        pong = control_frame(Opcode.PONG, data)
        if self.writable.is_set():
            self.transport.write(pong)
        else:
            self._late_pong = pong

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
        frames = [one.packed_frame for one in messages] if self.packed else [one.frame for one in messages]
        # One write for all: a write costs several times as much as the rest of a message.
        self.transport.write(b"".join(frames))
        return True

    def close_at_once(self, code: int, reason: str) -> None:
        """Send a close frame after the buffered bytes, and abort if the client doesn't answer in time."""
        if not self._open or self.transport.is_closing():
            return
        self._code, self._by_client = code, False
        self.transport.write(control_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode()))
        self._end()
        self._uncounted, self._next = 0, None
        self._read_on()
        self._close_timer = self.loop.call_later(LINGER_SECONDS, cut_off, self.transport)

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
            self._close_timer = self.loop.call_later(LINGER_SECONDS, cut_off, self.transport)

    def _end(self) -> None:
        self._open = False
        # Wake waiting senders, which then raise `Disconnected`.
        self.writable.set()
        if self._client is not None:
            self._client.leave()

    # --- what the event loop and uvicorn call ---------------------------------------------------------------

    def resume_writing(self) -> None:
        """Send the pong that waited, and unblock senders: the client has read."""
        super().resume_writing()
        late, self._late_pong = self._late_pong, b""
        if late and self._open:
            self.transport.write(late)

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
        self._message = self._received = self._next = None
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
