"""The newest entries of the users who have a socket here, in memory, in front of the log.

It is a cache and nothing more: what it does not have is read from the log. So it may forget at any time, and
it forgets the oldest first when it holds more than its budget.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice

from gateway.protocol.items import Counts
from gateway.store.entries import Entry, fitting

BURST_BYTES = 512 * 1024
"""How many bytes of entries a socket is given at once: it holds them until its client has read them."""


MIN_MARKS = 1000
"""How many marks of entries that are gone may be left: to remove few of them one by one is not worth it."""


class RecentEntries:
    """The newest entries by user, within a budget of bytes for all of them."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._size = 0
        self._number = 0
        # None until there is an entry: most users are idle, and an empty deque is not small.
        self._users: dict[int, deque[Entry] | None] = {}
        self._counts: dict[int, Counts] = {}
        # A mark for each entry, in the order of recording: the deque that has it, at its left end by the time
        # the mark is reached. What is dropped at once is cleared, and its marks lead to nothing.
        self._oldest: deque[deque[Entry]] = deque()

    def __contains__(self, user_id: object) -> bool:
        """Whether the user is followed. Any thread may ask: a wrong answer costs a read of the log."""
        return user_id in self._users

    def follow(self, user_id: int) -> None:
        """Begin to keep what is appended to this user's log."""
        self._users[user_id] = None

    def forget(self, user_id: int) -> None:
        """Stop keeping anything of this user, whose entries are freed at once."""
        self._drop_all(self._users.pop(user_id, None))
        self._counts.pop(user_id, None)

    def record(self, entries: Iterable[Entry], counts: Mapping[int, Counts]) -> None:
        """Take what a transaction has committed, here or elsewhere, in the order of each user's numbers.

        Of users who are not followed, nothing is kept.
        """
        for entry in entries:
            if entry.user_id in self._users:
                kept = self._users[entry.user_id]
                if kept and kept[-1].counts.seq >= entry.counts.seq:
                    continue  # Read from the log after a commit here has brought it.
                if kept and kept[-1].counts.seq + 1 != entry.counts.seq:
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
        """Drop the entries of a user. Their marks are removed when they are more than all others."""
        if not kept:
            return
        self._size -= sum(entry.size for entry in kept)
        self._number -= len(kept)
        kept.clear()
        if len(self._oldest) > 2 * self._number + MIN_MARKS:
            self._oldest = deque(one for one in self._oldest if one)

    def after(self, user_id: int, cursor: int) -> list[Entry] | None:
        """Return what follows `cursor`, at least one entry and without a gap, or None: read the log then.

        It is not all that follows where that is large: ask again.

        The newest may be missing here: what is committed while the first socket of a user attaches, or while
        the last one leaves and another comes, was not asked for.
        """
        kept = self._users.get(user_id)
        if not kept or not kept[0].counts.seq <= cursor + 1 <= kept[-1].counts.seq:
            return None
        first = cursor + 1 - kept[0].counts.seq
        return [kept[first]] if first == len(kept) - 1 else fitting(islice(kept, first, None), BURST_BYTES)

    def counts(self, user_id: int) -> Counts | None:
        """Return where the log of a followed user stands, where it has moved since it is followed."""
        return self._counts.get(user_id)
