"""Socket buffers: limits on the bytes that the kernel holds for each connection.

By default, the kernel buffers megabytes per connection: received bytes that the process hasn't read, and
responses that a client doesn't read. If it runs out of buffer memory, every connection of the machine stalls.
Small receive buffers also keep a pass of the event loop short, because the loop reads all the received bytes
of every connection in one pass.
"""

import asyncio
import select
import socket
import struct
from contextlib import suppress

UNREAD_BYTES = 16_384
"""Receive buffer in bytes: how many unread bytes the kernel holds before the client must wait."""

UNREAD_BODY_BYTES = 65_536
"""Receive buffer in bytes while the application reads a large body.

With it, 8 MiB arrive in 13 s at a round-trip time of 100 ms.
"""

UNSENT_BYTES = 16_384
"""How many unsent bytes the kernel holds before it accepts no more."""


def bound(listener: socket.socket) -> None:
    """Limit the buffers of each connection of a listener, as far as the system supports it.

    Connections inherit the options, and that small segments are sent at once (TCP_NODELAY). asyncio's own
    loop sets it only for sockets that name their protocol, as accepted ones do not. Without it, a response in
    two writes waits for a delayed acknowledgement: 40 ms.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def cut_off(transport: asyncio.Transport) -> None:
    """Abort a connection. If its client lags, let the kernel drop the unread bytes, too.

    Otherwise the kernel would keep them for minutes, and ask the client again and again to take them. A
    client that has only the last bytes to read may still read them.
    """
    if transport.get_write_buffer_size():
        with suppress(OSError):
            # Close with a reset (SO_LINGER, socket(7)).
            no_time = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)
    transport.abort()


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Return whether the client has closed or reset its connection, even behind bytes that were not read.

    A client that has closed only its sending side looks the same: both have sent a FIN. The system tells them
    apart only after a write, which a client that has left answers with a reset.
    """
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def widen(transport: asyncio.BaseTransport) -> None:
    """Enlarge the receive buffer for a large body: at most one buffer arrives per round trip."""
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BODY_BYTES)
