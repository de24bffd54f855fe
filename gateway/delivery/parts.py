"""The parts of the gateway that every connection uses."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.auth.limits.token_buckets import Buckets
from gateway.auth.tokens import Tokens
from gateway.database.database import Database
from gateway.delivery.hub import Hub
from gateway.delivery.recent_entries import RecentEntries
from gateway.observability.metrics import Metrics
from gateway.settings import Settings
from gateway.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Parts:
    """One object for all connections of a process. `clock` returns seconds since 1970.

    `commands` is the rate limit that all sockets of a user share.
    """

    settings: Settings
    database: Database
    recent: RecentEntries
    hub: Hub
    writer: Writer
    tokens: Tokens
    metrics: Metrics
    commands: Buckets
    clock: Callable[[], float] = time.time
