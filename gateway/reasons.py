"""Why something outside failed, in words that hold no secret.

The text of a library's exception may hold what it was given: a header with its token, a URL with its
password. So none is shown. Shown are the system's words for a number, what a certificate is refused for,
and names of exceptions.
"""

import os
import re
import socket
import ssl
from collections.abc import Iterator

ENVIRONMENT = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
"""The variables of the environment that a library reads to reach a server."""


def reason(error: BaseException) -> str:
    """Return why something failed, in one line without a secret."""
    for one in _chain(error):
        if found := _words(one):
            return found
    if any(isinstance(one, TimeoutError) or "Timeout" in type(one).__name__ for one in _chain(error)):
        return "there was no answer in time"
    return type(error).__name__


def answer(error: BaseException) -> str:
    """Return why a database cannot be used, in one line: what it says itself, which knows no secret of ours.

    What its driver makes of a wrong variable is said by the names of those that there are.
    """
    said = str(getattr(error, "orig", error)).partition("\n")[0]
    spoken = getattr(error, "orig", None) is not None and " at 0x" not in said
    if spoken and not any(type(one).__name__ in _NAMED for one in _chain(error)):
        return said
    found = reason(error)
    if found != type(error).__name__:
        return found
    names = sorted(name for name in os.environ if name.startswith("PG"))
    return f"its driver cannot use the URL or the environment: look at {', '.join(names) or 'the URL'}"


def _words(error: BaseException) -> str | None:
    """Return what an exception says by itself, whatever it was raised from."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return "the name of the host is not known"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (number := _number(error)):
        return os.strerror(number)
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate and type(error).__name__ != "Error":  # that of SQLAlchemy's wrapper
        # The name of a class of asyncpg is that of the condition in PostgreSQL's manual, appendix A.
        condition = _CAMEL.sub(" ", type(error).__name__.removesuffix("Error").replace("SQL", "Sql")).lower()
        return f"{condition} (SQLSTATE {sqlstate})"
    return _NAMED.get(type(error).__name__) or getattr(error, "sqlite_errorname", None)


def _number(error: OSError) -> int | None:
    """Return the number of a system's error: of several addresses that were tried, that of the first."""
    if error.errno is None and (found := _NUMBER.search(str(error))):
        return int(found[1])
    return error.errno


_NAMED = {"TargetServerAttributeNotMatched": "no host is what target_session_attrs asks for"}
_NUMBER = re.compile(r"\[Errno ([0-9]{1,4})\]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def environment_fault() -> str:
    """Return what to say where no client could be made from the environment, and which variables it has."""
    names = [name for name in os.environ if name.lower() in ENVIRONMENT]
    given = ", ".join(sorted(names)) or "its proxy or certificates"
    return f"the environment cannot be used: look at {given}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from, and so on."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
