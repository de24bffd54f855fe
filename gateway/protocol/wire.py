"""The wire format of messages: WebSocket frames and server-sent events."""

from gateway.protocol.packing import pack_message

SUBPROTOCOL = "notify.v1"

PACKED_SUBPROTOCOL = "notify.v1.msgpack"
"""The same messages and commands as MessagePack in binary frames."""

SUBPROTOCOLS = frozenset({SUBPROTOCOL, PACKED_SUBPROTOCOL})

MAX_FRAME = 16 * 1024
"""Maximum size of a frame from a client, in bytes. A larger one closes the socket with 1009."""


class Message:
    """One JSON object with a `type`, encoded once for all its receivers.

    `members` is the JSON text of its other members. `seq` is the position of a client that has applied the
    message, or None if it doesn't change the position. `epoch` is that of the log, if the message names it.
    """

    __slots__ = ("_packed_frame", "epoch", "frame", "kind", "seq")

    def __init__(self, kind: str, members: str, seq: int | None = None, epoch: str | None = None) -> None:
        self.kind = kind
        self.seq = seq
        self.epoch = epoch
        self.frame = _frame(f'{{"type":"{kind}",{members}}}'.encode())
        """The message as a text frame (RFC 6455, section 5.2)."""
        self._packed_frame: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The JSON. It is stored only as part of the frame, since most connections are sockets."""
        return self.frame[_EXTENDED_HEADER_BYTES.get(self.frame[1], 2) :]

    @property
    def packed_frame(self) -> bytes:
        """The message as MessagePack in a binary frame, encoded when the first receiver wants it."""
        if self._packed_frame is None:
            self._packed_frame = _BINARY + _frame(pack_message(self.payload))[1:]
        return self._packed_frame

    def event(self, epoch: str) -> bytes:
        """Return the message as an event of a stream, for a log with this epoch (HTML, section 9.2.6).

        Only messages that change the client's position have an id, so a stream that resumes after the last id
        misses nothing. Compact JSON contains no line break, so the data is one line.
        """
        name = b"" if self.seq is None else f"id: {epoch}.{self.seq}\n".encode()
        return b"%bevent: %b\ndata: %b\n\n" % (name, self.kind.encode(), self.payload)


_EXTENDED_HEADER_BYTES = {126: 4, 127: 10}
"""The length of a frame's header in bytes, by its second byte, if that announces an extended length."""


_BINARY = b"\x82"
"""The first byte of a whole binary frame."""


def _frame(payload: bytes) -> bytes:
    """Return an unmasked text frame with FIN set."""
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - the lengths of the RFC
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:  # noqa: PLR2004
        return b"\x81\x7e%c%c%b" % (size >> 8, size & 0xFF, payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)
