"""Waiting wakes: the users whose connections wait to be woken, in turns between the senders.

A sender is a service, or `CHANGES` for all changes that users make to their own inboxes. A user waits only
once for each sender, however many commits follow. A wake says only that the log has grown, and a connection
then sends everything that it lacks. So wakes can be merged, and one user's can overtake another's.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter

from gateway.store.entries import CHANGES, Entry

SHARE = 20
"""Number of connections that one sender wakes before the next one does. The last user's may exceed it."""


class Wakes:
    """Waiting wakes. `wake` wakes the connections of a user at a `seq`, and returns their number."""

    def __init__(self, wake: Callable[[int, int], int]) -> None:
        self._wake = wake
        self._lanes: OrderedDict[int, OrderedDict[int, int]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, seqs: Mapping[int, int], entries: Iterable[Entry]) -> None:
        """Add users with the last `seq` of their logs. `entries` say which services have sent to them."""
        changed = set(seqs)
        for entry in entries:
            if entry.user_id in seqs:
                self._put(entry.service_id, entry.user_id, seqs[entry.user_id])
                changed.discard(entry.user_id)
        for user_id in changed:
            self._put(CHANGES, user_id, seqs[user_id])

    def _put(self, sender: int, user_id: int, seq: int) -> None:
        lane = self._lanes.get(sender)
        if lane is None:
            lane = self._lanes[sender] = OrderedDict()
        # A user who waits already keeps the place.
        lane[user_id] = max(seq, lane.get(user_id, 0))

    def take(self, limit: int, until: float) -> None:
        """Wake users of each sender in turn, until `limit` connections are woken or the time is `until`."""
        while self._lanes and limit > 0:
            sender, lane = self._lanes.popitem(last=False)
            share = min(SHARE, limit)
            while lane and share > 0:
                woken = self._wake(*lane.popitem(last=False))
                share -= woken
                limit -= woken
                if perf_counter() >= until:
                    share = limit = 0
            if lane:
                self._lanes[sender] = lane
