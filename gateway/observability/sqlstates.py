"""SQLSTATEs: Postgres errors, and what they say about the server (PostgreSQL's manual, appendix A).

A constant is a whole SQLSTATE or the prefix of several. asyncpg's errors arrive untyped, so they are
distinguished by SQLSTATE, whether the server fails a statement or refuses a connection.
"""

READ_ONLY = "25006"
"""The SQLSTATE of a write in a read-only session."""

_NO_PRIVILEGE = "42501"

_STORES_NOTHING = (READ_ONLY, "53100")
"""The server responds but stores nothing: it is read-only, or its disk is full."""

_LOST = ("08", "25P03", "25P04", "57P")
"""The connection is lost: a timeout of the server, an administrator or a shutdown has ended it."""

# The server can't be used: no connection, a lost connection, a wrong user, password or database, too many
# connections, no memory, a database that accepts no connections (55000) or is being changed (55006), a
# failing disk, a broken configuration, and the internal errors of a pooler or of a server with damaged files.
_UNUSABLE = (*_LOST, "28", "3D", _NO_PRIVILEGE, "53", "55000", "55006", "58", "F0", "XX")

_ROLLED_BACK = ("40001", "40P01", "55P03")
"""Postgres has rolled back the transaction: a serialisation failure, a deadlock, or an unavailable lock."""

_PASSING = (*_STORES_NOTHING, *_UNUSABLE, *_ROLLED_BACK, "40", "57")


def passes(state: str) -> bool:
    """Whether the error is transient: a later retry may succeed."""
    return state.startswith(_PASSING)


def is_lost(state: str) -> bool:
    """Whether the connection is lost."""
    return state.startswith(_LOST)


def is_rolled_back(state: str) -> bool:
    """Whether Postgres has rolled back the transaction, at whatever statement."""
    return state in _ROLLED_BACK


def stores_nothing(state: str, *, writes: bool) -> bool:
    """Whether the server responds but stores nothing. `writes` says whether the unit of work was to write."""
    return state in _STORES_NOTHING or (writes and state == _NO_PRIVILEGE)


def is_unusable(state: str) -> bool:
    """Whether the server is unreachable, or refuses all connections."""
    return state.startswith(_UNUSABLE)
