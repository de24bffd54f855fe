"""What the kernel holds of each connection: little, so that many of them hold no lot of memory.

By itself it takes megabytes of each: of what nobody has read yet, and of answers that their clients do not
read. When it has no room for more, no connection of the machine gets on. And the event loop reads all that
has come of a connection at once, of every connection in the same pass: that has to be short, too.
"""

import asyncio
import socket
from contextlib import suppress

UNREAD_BYTES = 16_384
"""How many bytes that are not read yet the kernel holds before the client has to wait."""

UNREAD_BODY_BYTES = 65_536
"""The same for a body that the application takes: 8 MiB arrive in 13 s at a round-trip time of 100 ms."""

UNSENT_BYTES = 16_384
"""How many bytes that are not sent yet the kernel holds before it takes no more."""


def bound(listener: socket.socket) -> None:
    """Bound what the kernel holds of each connection of a listener, as far as the system can do it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def widen(transport: asyncio.BaseTransport) -> None:
    """Let a large body arrive faster: no more comes in a round trip than the buffer holds."""
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BODY_BYTES)
