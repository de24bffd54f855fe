"""The limit of open files (RLIMIT_NOFILE), and how many connections of clients fit below it.

A connection is a file. Where they took all files, the gateway could open neither its database nor its logs.
"""

import resource
import sys
from contextlib import suppress

from gateway.settings import Settings

RESERVE = 100
"""Files that are kept for the process itself, beside its pool of connections to Postgres."""

REQUESTS = 10_000
"""How many connections there may be beside `GATEWAY_MAX_SOCKETS`, for requests."""

ENOUGH = 4096
"""The limit of open files below which `gateway check` warns."""


def raise_limit() -> None:
    """Raise the soft limit to the hard one, as a process may; it stays where the system refuses that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS has a hard limit that it does not grant.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def soft_limit() -> int:
    """Return how many files this process may have open now."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def hard_limit() -> int:
    """Return how many files this process may have open after `raise_limit`."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def connections_within(limit: int, settings: Settings) -> int:
    """Return how many connections of clients fit below a limit of open files.

    The reserve is at most half of the limit, so that a very low one still serves somebody. And there are no
    more than the sockets and the requests that the process is meant for, however high the limit: each costs
    memory, too.
    """
    reserve = min(RESERVE + settings.database_pool_size, limit // 2)
    return max(1, min(limit - reserve, settings.max_sockets + REQUESTS))


def report(limit: int, settings: Settings) -> str:
    """Return a line for `gateway check`: how many files there may be, and what to do where that is little."""
    line = f"open files: {limit}: room for {connections_within(limit, settings)} connections"
    if limit < ENOUGH:
        line += f" (low: set ulimit -n, or LimitNOFILE= of systemd, to {ENOUGH} or more)"
    return line


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
