"""Entries: the changes in a log, with the message that each is sent as, and the memory that they take."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from sys import getsizeof

from gateway.protocol import messages
from gateway.protocol.encoding import quoted
from gateway.protocol.items import Counts, Item, encode_item
from gateway.protocol.wire import Message

MAX_LISTED_BYTES = 1_047_000
"""Maximum size of the items of a change, in bytes of its message.

It keeps messages within 1 MiB: clients refuse a larger message, and would never get past it. An item may take
90 KiB.
"""

CHANGES = 0
"""The `service_id` of entries that users' own changes have caused. Services have positive ids."""


@dataclass(slots=True)
class Entry:
    """One change in one user's log. Its message is encoded once, for all clients of the user.

    `fresh` says that its only item is new to a client that has received the previous entry, and `quiet` that
    the user has quiet hours. `up_to` is set when the items are too many to list: all items up to it were
    marked read. `committed_at` is the time of the commit, in seconds since 1970, or 0 if unknown.
    `service_id` is the sender's.
    """

    user_id: int
    counts: Counts
    items: Sequence[Item]
    fresh: bool = False
    quiet: bool = False
    up_to: int | None = None
    committed_at: float = 0
    service_id: int = CHANGES
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
        if self.fresh:
            item = encode_item(self.items[0])
            return messages.notification(item, self.counts.seq, self.counts, alert=not self.quiet)
        encoded = [encode_item(item) for item in _listed(self.items)]
        return messages.changed(encoded, self.counts.seq, self.counts)

    @property
    def supersedes(self) -> bool:
        """Whether the sender has changed or withdrawn what earlier entries of the log may still contain."""
        if self.fresh:
            return self.items[0].content.edited_at is not None
        return any(
            item.content.edited_at is not None or item.deleted_reason is not None for item in self.items
        )

    @property
    def size(self) -> int:
        """The maximum memory of this entry, in bytes: its items, and its message in both encodings.

        The value never changes, so a budget can subtract exactly what it added. Entries that share a content
        each count it.
        """
        if not self._size:
            self._size = _ENTRY_BYTES + sum(map(_memory_of, self.items))
        return self._size


def restore_counts(entries: Sequence[Entry]) -> None:
    """Set the counts of each entry of a user to those at its own `seq`, going back from the newest.

    Each entry must have the counts of the newest one. An item that hasn't changed since it arrived is unread,
    and unseen if it is beyond the seen mark. The counts are exact only as far back as all later entries are
    arrivals: the effect of other changes is unknown.
    """
    for later, earlier in pairwise(reversed(entries)):
        counts = later.counts
        newest = later.items[0] if later.fresh else None
        # An edited item may have entered again: it may have been unread before.
        arrived = newest is not None and newest.created_seq == counts.seq and newest.content.edited_at is None
        unread, unseen = counts.unread - arrived, counts.unseen - (arrived and counts.seq > counts.seen)
        earlier.counts = counts._replace(seq=earlier.counts.seq, unread=unread, unseen=unseen)


_ENTRY_BYTES = 900
"""Maximum memory of an entry besides its items. The list of the items is included."""

_ITEM_BYTES = 1450
"""Maximum size of an item besides its texts: in memory, plus the rest of it in a frame of each encoding."""


def _memory_of(item: Item) -> int:
    """Return the maximum size of an item in memory and in a frame of each encoding together, in bytes."""
    _, title, body, _, _, url, data, _, icon, actions, _, _ = item.content
    size = _ITEM_BYTES + _memory_of_text(title)
    # Most items lack some of these, and a call costs as much as the rest of this function.
    if body is not None:
        size += _memory_of_text(body)
    if url is not None:
        size += _memory_of_text(url)
    if data is not None:
        # A number in `data` may take more than twice as many bytes in MessagePack as in JSON.
        size += 5 * getsizeof(data)
    if icon is not None or actions is not None or item.answer is not None:
        size += sum(_memory_of_text(text) for text in (icon, actions, item.answer) if text is not None)
    return size


def _memory_of_text(text: str) -> int:
    """Return the maximum size of a text in memory and in a frame of each encoding together, in bytes.

    In a frame a character takes up to four bytes in UTF-8. In JSON it takes two if it is escaped with a
    letter, and six if it is escaped with its number, as only unprintable characters are.
    """
    if text.isascii():
        return (4 if text.isprintable() else 8) * len(text)
    return getsizeof(text) + 8 * len(text)


def size_of(item: Item) -> int:
    """Return about how many bytes an item takes, encoded or in memory: at least half of the actual size.

    The texts of a deleted item count as well, because they are read with it.
    """
    _, title, body, _, _, url, data, _, icon, actions, _, _ = item.content
    size = _ITEM_FRAME_BYTES + _size_of_text(title)
    for text in (body, url, data, icon, actions, item.answer):
        if text is not None:
            size += _size_of_text(text)
    return size


_ITEM_FRAME_BYTES = 400
"""Approximate size of an item besides its texts."""


def _size_of_text(text: str) -> int:
    # The fast path for nearly all texts. In others a character takes up to six bytes.
    return len(text) if text.isascii() and text.isprintable() else len(quoted(text).encode())


def _listed(changed: Sequence[Item]) -> Sequence[Item]:
    """Return the items that the message of a change lists.

    They fit into it, unless their senders have edited them since: the new content is read at once, but each
    item takes its next `seq` only with a later step. Leave out as many of those as don't fit; they follow.
    """
    if len(changed) == 1 or sum(map(max_sent_bytes, changed)) <= MAX_LISTED_BYTES:
        return changed
    left = MAX_LISTED_BYTES
    listed = set()
    for item in sorted(changed, key=lambda one: one.content.edited_at or 0):
        left -= max_sent_bytes(item)
        if left < 0:
            break
        listed.add(item.created_seq)
    return [item for item in changed if item.created_seq in listed]


def max_sent_bytes(item: Item) -> int:
    """Return the maximum bytes of an item in a message of either encoding."""
    if item.deleted_at is not None:
        return _MAX_SENT_FRAME_BYTES
    _, title, body, _, _, url, data, _, icon, actions, _, _ = item.content
    size = _MAX_SENT_FRAME_BYTES + _max_sent_bytes_of_text(title)
    for text in (body, url, icon):
        if text is not None:
            size += _max_sent_bytes_of_text(text)
    for json in (actions, item.answer):
        if json is not None:
            size += len(json.encode())
    # MessagePack takes 9 bytes for a fraction such as 0.5, which with its comma takes 4 in JSON.
    return size if data is None else size + 9 * len(data.encode()) // 4


_MAX_SENT_FRAME_BYTES = 750
"""Maximum bytes of an item besides its texts, in a message of either encoding."""


def _max_sent_bytes_of_text(text: str) -> int:
    # JSON takes six bytes for an unprintable ASCII character, and two for a quotation mark or a backslash.
    # Any other character takes at most four.
    if text.isascii():
        return (2 if text.isprintable() else 6) * len(text)
    return (4 if text.isprintable() else 6) * len(text)


def by_message(changes: Iterable[tuple[Item, Item]]) -> Iterator[list[tuple[Item, Item]]]:
    """Yield as many changes, from old items to new ones, as one message may list, in their order."""
    listed: list[tuple[Item, Item]] = []
    left = MAX_LISTED_BYTES
    for change in changes:
        size = max_sent_bytes(change[1])
        left -= size
        if left < 0 and listed:
            yield listed
            listed, left = [], MAX_LISTED_BYTES - size
        listed.append(change)
    yield listed


def sent_bytes(entry: Entry) -> int:
    """Return about how many bytes of items the message of a change carries."""
    if entry.up_to is not None:
        return 0
    # A deleted item is sent without its texts.
    return sum(size_of(item) for item in entry.items if item.deleted_at is None)


def fitting(entries: Iterable[Entry], size: int) -> list[Entry]:
    """Return the longest prefix of the entries that takes at most `size` bytes in memory, at least one."""
    found: list[Entry] = []
    for entry in entries:
        size -= entry.size
        if size < 0 and found:
            break
        found.append(entry)
    return found
