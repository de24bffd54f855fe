"""The failures of a database: which of them pass, and which have certainly left nothing."""

from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from gateway.errors import Unavailable
from gateway.observability import sqlstates


def passes(error: DBAPIError) -> bool:
    """Whether trying again later may help."""
    # Internal is what asyncpg itself raises, as where no host is what `target_session_attrs` asks for.
    known = isinstance(error, OperationalError | InterfaceError | InternalError)
    return known or sqlstates.passes(_state(error)) or _has_lost(error)


def _has_lost(error: DBAPIError) -> bool:
    return error.connection_invalidated or sqlstates.is_lost(_state(error))


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def raise_unavailable(error: DBAPIError, *, committing: bool = True) -> None:
    """Raise `Unavailable` for a driver's error where trying again later may help; else do nothing.

    Whoever raises the error itself does so `from None`: what Postgres says of a row holds its content.
    What was not `committing` yet when its connection was lost has left nothing.
    """
    if passes(error):
        retryable = sqlstates.is_rolled_back(_state(error)) or (_has_lost(error) and not committing)
        raise Unavailable("The database cannot be used now.", retryable=retryable) from error
