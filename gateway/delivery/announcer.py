"""The announcer: what a process does with a commit of its own, before those who wait for it are answered."""

import time
from collections.abc import Mapping
from typing import Protocol

from gateway.delivery.hub import Hub
from gateway.delivery.recent_entries import RecentEntries
from gateway.observability.metrics import Metrics
from gateway.store.batch import Committed


class Publisher(Protocol):
    """What the announcer asks of the backplane."""

    def publish(self, seqs: Mapping[int, int]) -> None:
        """Tell the other processes what the logs of these users have reached. It does not wait."""


class Announcer:
    """Records a commit in the tail, wakes the sockets of its users here, and tells other processes of it."""

    def __init__(self, recent: RecentEntries, hub: Hub, publisher: Publisher, metrics: Metrics) -> None:
        self._recent = recent
        self._hub = hub
        self._publisher = publisher
        self._metrics = metrics

    def announce(self, committed: Committed) -> None:
        """Announce a commit. Call it on the event loop, after each, in their order."""
        committed_at = time.time()
        for entry in committed.entries:
            entry.committed_at = committed_at
        self._metrics.committed(committed.posts, committed.items, committed.seconds)
        seqs = {user_id: counts.seq for user_id, counts in committed.counts.items()}
        # In this order: a socket that is woken finds the entry in memory.
        self._recent.record(committed.entries, committed.counts)
        self._hub.wake(seqs)
        self._publisher.publish(seqs)
