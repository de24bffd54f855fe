"""Database URLs, validated before the driver sees them because its errors may show part of a password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

_EXAMPLE = "it is not a URL such as postgresql://user:password@host:5432/name"
_ENCODE = "in a password write @ as %40, / as %2F, : as %3A, # as %23, ? as %3F and % as %25"

_PORT = "its port must be a number from 1 to 65,535"

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")

# The query parameters of a Postgres URL: the parameters of asyncpg that are strings.
_PARAMETERS: dict[str, tuple[str, ...] | None] = {
    "host": None,
    "passfile": None,
    "port": None,
    "service": None,
    "servicefile": None,
    "ssl": _MODES,
    "sslmode": _MODES,
    "target_session_attrs": _SESSION_ATTRIBUTES,
}


def read_database_url(text: str) -> str:
    """Return a database URL in the form that drivers accept. Raises ValueError, never with a password."""
    # Hosting providers use this scheme, and libpq accepts it.
    if text.startswith("postgres://"):
        text = text.replace("postgres://", "postgresql://", 1)
    if not text.startswith(("sqlite:///", "postgresql://")):
        raise ValueError("it must begin with sqlite:/// or postgresql://")
    url = _parse(text)
    if not url.database or url.database == ":memory:":
        raise ValueError("it must name a database: a file that outlives the process, or one of the server")
    if "\0" in unquote(text):
        raise ValueError("it must hold no null character (%00)")
    if url.get_backend_name() == "sqlite":
        # With `uri` the other parameters are SQLite's own (https://www.sqlite.org/uri.html).
        _check_names(url.query if "uri" not in url.query else {}, ())
        return text
    _check_password(text, url)
    _check_names(url.query, _PARAMETERS)
    if url.port is not None and not _is_port(str(url.port)):
        raise ValueError(_PORT)
    _check_values(url.query)
    _check_hosts(url)
    # Encode the whole password: drivers differ in what it may hold unencoded.
    return text if url.password is None else url.render_as_string(hide_password=False)


def _is_port(text: str) -> bool:
    """Return whether a text is a port number, or a list of them for several hosts."""
    return all(one.isascii() and one.isdigit() and 0 < int(one) <= 65535 for one in text.split(","))  # noqa: PLR2004


def _parse(text: str) -> URL:
    # Imported here because commands that need no database load the settings, too.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(_EXAMPLE) from None


def _check_password(text: str, url: URL) -> None:
    """Raise ValueError if the host does not begin after the last `@`: the password has an unencoded `@`."""
    if "@" not in text:
        return
    try:
        behind = _parse(f"postgresql://{text.rpartition('@')[2]}")
    except ValueError:
        raise ValueError(f"{_EXAMPLE}: {_ENCODE}") from None
    if (behind.host, behind.port, behind.database) != (url.host, url.port, url.database):
        raise ValueError(f"{_EXAMPLE}: {_ENCODE}")
    if "\ufffd" in f"{url.username}{url.password}":
        raise ValueError(f"its user or password is not UTF-8: {_ENCODE}")


def _check_names(given: Mapping[str, object], known: Mapping[str, object] | tuple[str, ...]) -> None:
    for name in sorted(given.keys() - set(known)):
        raise ValueError(f"the parameter {name[:40]!r} is not known")


def _check_values(given: Mapping[str, str | tuple[str, ...]]) -> None:
    for name, value in given.items():
        allowed = _PARAMETERS[name]
        if allowed is not None and value not in allowed:
            raise ValueError(f"the parameter {name!r} must be one of {', '.join(allowed)}")
        if name == "port" and not all(map(_is_port, [value] if isinstance(value, str) else value)):
            raise ValueError(_PORT)


def _check_hosts(url: URL) -> None:
    """Raise ValueError if SQLAlchemy cannot tell which host has which port."""
    # Imported here because it takes longer to load than a command on SQLite takes to run.
    from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
    from sqlalchemy.exc import ArgumentError

    try:
        cast("Any", PGDialect_asyncpg)().create_connect_args(url)
    except (ArgumentError, ValueError):
        how = "write ?host=one:5432&host=two:5432"
        raise ValueError(f"its hosts and ports cannot be told apart: {how}") from None
