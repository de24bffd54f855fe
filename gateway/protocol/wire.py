"""A message as it goes over the wire: as a WebSocket frame, or as a server-sent event."""

SUBPROTOCOL = "notify.v1"

MAX_FRAME = 16 * 1024
"""The largest frame a client may send, in bytes; a larger one closes with 1009."""


class Message:
    """One JSON object with a `type`, encoded once for all who get it.

    `members` is the text of its other members. `seq` is where in the log a client is that has applied it, and
    None where it moves nobody. `epoch` is that of the log, where the message names it.
    """

    __slots__ = ("epoch", "frame", "kind", "seq")

    def __init__(self, kind: str, members: str, seq: int | None = None, epoch: str | None = None) -> None:
        self.kind = kind
        self.seq = seq
        self.epoch = epoch
        self.frame = _frame(f'{{"type":"{kind}",{members}}}'.encode())
        """The message as a text frame (RFC 6455, section 5.2)."""

    @property
    def payload(self) -> bytes:
        """The JSON. It is kept in the frame alone, for sockets are many and streams are few."""
        return self.frame[_HEADS.get(self.frame[1], 2) :]

    def event(self, epoch: str) -> bytes:
        """Return it as an event of a stream of this log (HTML, section 9.2.6).

        Only what moves a client has an id, so a stream that is resumed after the last id misses nothing. JSON
        holds no line break, so the data is one line.
        """
        name = b"" if self.seq is None else f"id: {epoch}.{self.seq}\n".encode()
        return b"%bevent: %b\ndata: %b\n\n" % (name, self.kind.encode(), self.payload)


_HEADS = {126: 4, 127: 10}
"""How long the head of a frame is where its second byte announces a longer length."""


def _frame(payload: bytes) -> bytes:
    """Return a whole text frame that is not masked."""
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - the lengths of the RFC
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:  # noqa: PLR2004
        return b"\x81\x7e%c%c%b" % (size >> 8, size & 0xFF, payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)
