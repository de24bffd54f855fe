"""Entries: what took a number of a log, with the message that is sent of it, and the bytes both take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from sys import getsizeof

from gateway.protocol import messages
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts, Item, encode_item
from gateway.protocol.wire import Message


@dataclass(slots=True)
class Entry:
    """What took one number of one user's log. Its message is encoded once, for all clients of the user.

    `fresh` says that its one item is new to whoever reads on from the entry before. `up_to` is set where
    the items are too many to be listed: all up to it were marked read. `committed_at` is when it was stored,
    in seconds since 1970, or 0 where that is not known.
    """

    user_id: int
    counts: Counts
    items: Sequence[Item]
    fresh: bool = False
    up_to: int | None = None
    committed_at: float = 0
    _message: Message | None = field(default=None, repr=False)
    _size: int = field(default=0, repr=False, compare=False)

    @property
    def message(self) -> Message:
        """The message of this entry."""
        if self._message is None:
            self._message = self._encode()
        return self._message

    def _encode(self) -> Message:
        if self.up_to is not None:
            return messages.read_up_to(self.up_to, self.counts.seq, self.counts)
        encoded = [encode_item(item) for item in self.items]
        if self.fresh:
            return messages.notification(encoded[0], self.counts.seq, self.counts)
        return messages.changed(encoded, self.counts.seq, self.counts)

    @property
    def size(self) -> int:
        """The most bytes it can hold in memory: its items, and its message once that is encoded.

        It never changes, so what is added to a budget for it can be taken back. Entries that share a content
        each count it.
        """
        if not self._size:
            self._size = _ENTRY_BYTES + sum(map(_memory_of, self.items))
        return self._size


_ENTRY_BYTES = 900
"""The most bytes of an entry besides its items, with their list."""

_ITEM_BYTES = 1300
"""The most bytes of an item besides its texts: in memory, and what surrounds the texts in a frame."""


def _memory_of(item: Item) -> int:
    """Return the most bytes an item takes in memory and in a frame together."""
    _, title, body, _, _, url, data, _ = item.content
    size = _ITEM_BYTES + _memory_of_text(title)
    # Most items lack some of these, and a call costs as much as all else here.
    if body is not None:
        size += _memory_of_text(body)
    if url is not None:
        size += _memory_of_text(url)
    if data is not None:
        size += _memory_of_text(data)
    return size


def _memory_of_text(text: str) -> int:
    """Return the most bytes a text takes in memory and in a frame together.

    In a frame a character takes up to four bytes in UTF-8, two where it is escaped by a letter, and six where
    it is by its number, as only characters are that cannot be printed.
    """
    if text.isascii():
        return (3 if text.isprintable() else 7) * len(text)
    return getsizeof(text) + (4 if text.isprintable() else 6) * len(text)


def size_of(item: Item) -> int:
    """Return about how many bytes an item takes, encoded or in memory: half of them, or more.

    The texts of a deleted item count, too: they are read with it.
    """
    content = item.content
    texts = (content.title, content.body, content.url, content.data)
    return _FRAME_OF_ITEM + sum(_size_of_text(text) for text in texts if text is not None)


_FRAME_OF_ITEM = 400
"""About how many bytes an item takes besides its texts."""


def _size_of_text(text: str) -> int:
    # Nearly all texts are such, and to know that takes no time. In others a character takes up to six bytes.
    return len(text) if text.isascii() and text.isprintable() else len(dumps(text).encode())


def fitting(entries: Iterable[Entry], size: int) -> list[Entry]:
    """Return the first of these entries: as many as take at most `size` bytes in memory, and at least one."""
    found: list[Entry] = []
    for entry in entries:
        size -= entry.size
        if size < 0 and found:
            break
        found.append(entry)
    return found
