"""Database failures: classified by whether they are temporary, and whether the work was rolled back."""

from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from gateway.errors import Unavailable
from gateway.observability import sqlstates


def passes(error: DBAPIError) -> bool:
    """Return whether the failure is temporary, so that a retry may succeed."""
    # asyncpg itself raises InternalError, for example if no host matches `target_session_attrs`.
    known = isinstance(error, OperationalError | InterfaceError | InternalError)
    return known or sqlstates.passes(_state(error)) or _has_lost(error)


def _has_lost(error: DBAPIError) -> bool:
    return error.connection_invalidated or sqlstates.is_lost(_state(error))


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def raise_unavailable(error: DBAPIError, *, committing: bool = True) -> None:
    """Raise `Unavailable` for a driver's error if it is temporary. Otherwise do nothing.

    A caller that then raises the error itself must do so `from None`, because Postgres quotes the content of
    rows in its errors. Pass `committing=False` if the commit hadn't begun: a lost connection then means that
    the work was rolled back, and may be retried.
    """
    if passes(error):
        retryable = sqlstates.is_rolled_back(_state(error)) or (_has_lost(error) and not committing)
        raise Unavailable("The database cannot be used now.", retryable=retryable) from error
