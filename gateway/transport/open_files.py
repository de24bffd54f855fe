"""The limit on open files (RLIMIT_NOFILE), and the number of client connections that fit below it.

Each connection is an open file. If connections took all files, the gateway could open neither its database
nor its logs.
"""

import resource
import sys
from contextlib import suppress

from gateway.settings import Settings

RESERVED_FILES = 100
"""Number of files reserved for the process itself, besides its connection pool to Postgres."""

MAX_REQUEST_CONNECTIONS = 10_000
"""Maximum number of connections for requests, in addition to `GATEWAY_MAX_SOCKETS`."""

LOW_LIMIT = 4096
"""The limit on open files below which `gateway check` warns."""


def raise_limit() -> None:
    """Raise the soft limit to the hard limit, which any process may do. Keep it if the system refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS reports a hard limit that it doesn't grant.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def soft_limit() -> int:
    """Return the number of files that this process may have open now."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def hard_limit() -> int:
    """Return the number of files that this process may have open after `raise_limit`."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def connections_within(limit: int, settings: Settings) -> int:
    """Return the number of client connections that fit below a limit on open files.

    The reserve takes at most half of the limit, so that even a very low limit leaves room for clients.
    However high the limit, the result never exceeds the sockets and requests that the process is configured
    for, because each connection also costs memory.
    """
    reserve = min(RESERVED_FILES + settings.database_pool_size, limit // 2)
    return max(1, min(limit - reserve, settings.max_sockets + MAX_REQUEST_CONNECTIONS))


def report(limit: int, settings: Settings) -> str:
    """Return a line for `gateway check`: the limit, the room for connections, and a remedy if it is low."""
    line = f"open files: {limit}: room for {connections_within(limit, settings)} connections"
    if limit < LOW_LIMIT:
        line += f" (low: set ulimit -n, or LimitNOFILE= of systemd, to {LOW_LIMIT} or more)"
    return line


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
