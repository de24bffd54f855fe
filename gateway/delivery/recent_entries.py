"""Recent entries: an in-memory cache of the newest log entries of users with a socket in this process.

Entries that are not cached are read from the log. The cache may therefore evict at any time, and it evicts
the oldest entries first when it exceeds its budget.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice

from gateway.protocol.items import Counts
from gateway.store.entries import Entry, fitting

BURST_BYTES = 64 * 1024
"""Maximum size of the entries returned at once: about as much as a transport buffers."""


COMPACTION_SLACK = 1000
"""How many stale references the eviction queue may hold beyond its live ones before it is compacted."""


class RecentEntries:
    """The newest entries of each followed user. `budget` limits the bytes of all users together."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._size = 0
        self._number = 0
        # None until there is an entry: most users are idle, and an empty deque takes memory.
        self._users: dict[int, deque[Entry] | None] = {}
        self._counts: dict[int, Counts] = {}
        # The eviction queue: for each entry, in the order of recording, the deque that holds it. When its
        # turn comes, the entry is at the left end of that deque. Dropping a user clears the deque, so its
        # remaining references in the queue are stale.
        self._oldest: deque[deque[Entry]] = deque()

    def __contains__(self, user_id: object) -> bool:
        """Whether the user is followed. Any thread may ask: a wrong answer only costs a read of the log."""
        return user_id in self._users

    def follow(self, user_id: int) -> None:
        """Start caching the entries of this user's log."""
        self._users[user_id] = None

    def forget(self, user_id: int) -> None:
        """Stop caching this user's entries, and free them at once."""
        self._drop_all(self._users.pop(user_id, None))
        self._counts.pop(user_id, None)

    def record(self, entries: Iterable[Entry], counts: Mapping[int, Counts]) -> None:
        """Cache committed entries, of this or another process, in ascending `seq` for each user.

        Entries of users who are not followed are ignored.
        """
        for entry in entries:
            if entry.user_id in self._users:
                kept = self._users[entry.user_id]
                if kept and kept[-1].counts.seq >= entry.counts.seq:
                    continue  # A commit in this process has recorded it already.
                # A gap, or earlier entries whose content the sender has withdrawn or changed.
                if kept and (kept[-1].counts.seq + 1 != entry.counts.seq or entry.supersedes):
                    self._drop_all(kept)
                    kept = None
                if kept is None:
                    kept = self._users[entry.user_id] = deque()
                kept.append(entry)
                self._oldest.append(kept)
                self._size += entry.size
                self._number += 1
        for user_id, count in counts.items():
            if user_id in self._users:
                self._counts[user_id] = max(self._counts.get(user_id, count), count, key=Counts.order)
        while self._size > self.budget:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if kept := self._oldest.popleft():
            self._size -= kept.popleft().size
            self._number -= 1

    def _drop_all(self, kept: deque[Entry] | None) -> None:
        """Drop a user's entries. Compact the eviction queue once stale references outnumber live ones."""
        if not kept:
            return
        self._size -= sum(entry.size for entry in kept)
        self._number -= len(kept)
        kept.clear()
        if len(self._oldest) > 2 * self._number + COMPACTION_SLACK:
            self._oldest = deque(one for one in self._oldest if one)

    def after(self, user_id: int, cursor: int, head: int = 0) -> list[Entry] | None:
        """Return the entries after `cursor`, at least one and without a gap; None if the log must be read.

        It must be read, too, if it is known to reach to a `head` that is not recorded here: a later entry may
        withdraw the content of an earlier one.

        The result is limited to `BURST_BYTES`, so call again for the rest.

        The newest entries may be missing here: commits while a user's first socket attaches, or between the
        last one leaving and another attaching, are not recorded.
        """
        kept = self._users.get(user_id)
        if (
            not kept
            or not kept[0].counts.seq <= cursor + 1 <= kept[-1].counts.seq
            or kept[-1].counts.seq < head
        ):
            return None
        first = cursor + 1 - kept[0].counts.seq
        return [kept[first]] if first == len(kept) - 1 else fitting(islice(kept, first, None), BURST_BYTES)

    def counts(self, user_id: int) -> Counts | None:
        """Return the latest counts of a followed user, or None if none were recorded since `follow`."""
        return self._counts.get(user_id)
