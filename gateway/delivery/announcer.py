"""The announcer: passes on a commit of this process, before the writer answers its callers."""

import time
from collections.abc import Mapping
from typing import Protocol

from gateway.auth.limits.token_buckets import Buckets
from gateway.delivery.hub import Hub
from gateway.delivery.recent_entries import RecentEntries
from gateway.observability.metrics import Metrics
from gateway.store.transaction import Committed


class Publisher(Protocol):
    """The part of the backplane that the announcer uses."""

    def publish(self, seqs: Mapping[int, int]) -> None:
        """Notify the other processes of the last `seq` of these users' logs. It doesn't wait."""


class Announcer:
    """Caches the entries of a commit, wakes its users' connections here, and notifies the other processes.

    It charges the users of changes for what is sent on to their sockets.
    """

    def __init__(
        self, recent: RecentEntries, hub: Hub, publisher: Publisher, metrics: Metrics, changes: Buckets
    ) -> None:
        self._recent = recent
        self._hub = hub
        self._publisher = publisher
        self._metrics = metrics
        self._changes = changes

    def announce(self, committed: Committed) -> None:
        """Announce a commit. Call it on the event loop after each commit, in commit order."""
        committed_at = time.time()
        for entry in committed.entries:
            entry.committed_at = committed_at
        self._metrics.committed(committed.posts, committed.items, committed.seconds)
        seqs = {user_id: counts.seq for user_id, counts in committed.counts.items()}
        # Recorded before the wake, so that a woken connection finds the entry in memory.
        self._recent.record(committed.entries, committed.counts)
        self._hub.wake(seqs, committed.entries)
        self._publisher.publish(seqs)
        for user_id, size in committed.sent_on.items():
            # At least once: the sockets may be in another process.
            if kib := size * max(self._hub.sockets_of(user_id), 1) // 1024:
                self._changes.charge(user_id, kib)
