"""SQLSTATEs: what an error of Postgres says of the server (PostgreSQL's manual, appendix A).

A name is a whole SQLSTATE, or what several begin with. asyncpg's errors arrive untyped, so these tell them
apart, whether the server answers a statement or refuses a connection.
"""

READ_ONLY = "25006"
"""The SQLSTATE of a write in a session that takes none."""

_NO_PRIVILEGE = "42501"

_STORES_NOTHING = (READ_ONLY, "53100")
"""The server answers, and stores nothing: it is read-only, or its disk is full."""

_LOST = ("08", "25P03", "25P04", "57P")
"""The connection is gone: a timeout of the server has ended it, or an administrator or a shutdown has."""

# No connection or no longer one, no such user, password or database, too many connections, no memory, a
# database that takes no connections (55000) or is being changed (55006), a failing disk, a broken
# configuration, and what a pooler in between, or a server with damaged files, calls an internal error.
_OF_NO_USE = (*_LOST, "28", "3D", _NO_PRIVILEGE, "53", "55000", "55006", "58", "F0", "XX")

_ROLLED_BACK = ("40001", "40P01", "55P03")
"""Postgres has rolled the transaction back: a serialisation failure, a deadlock, a lock that is taken."""

_PASSING = (*_STORES_NOTHING, *_OF_NO_USE, *_ROLLED_BACK, "40", "57")


def passes(state: str) -> bool:
    """Whether trying again later may help."""
    return state.startswith(_PASSING)


def is_lost(state: str) -> bool:
    """Whether the connection is gone."""
    return state.startswith(_LOST)


def is_rolled_back(state: str) -> bool:
    """Whether Postgres has rolled the transaction back, whatever it was doing."""
    return state in _ROLLED_BACK


def stores_nothing(state: str, *, writes: bool) -> bool:
    """Whether the server answers and stores nothing; `writes` says whether it was asked to."""
    return state in _STORES_NOTHING or (writes and state == _NO_PRIVILEGE)


def is_of_no_use(state: str) -> bool:
    """Whether the server is not there, or lets nobody in."""
    return state.startswith(_OF_NO_USE)
