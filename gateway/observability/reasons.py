"""Reasons for the failure of an external system, worded without secrets.

The text of a library's exception may contain its input: a header with its token, a URL with its password.
It is therefore never shown. A reason consists of the system's text for an error number, the reason why a
certificate is refused, or the name of an exception.
"""

import os
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

ENVIRONMENT = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ssl_cert_file",
    "ssl_cert_dir",
    "sslkeylogfile",
)
"""The environment variables that libraries read to reach a server."""


def reason(error: BaseException) -> str:
    """Return the reason of an error, in one line without a secret."""
    for one in _chain(error):
        if found := _describe(one):
            return found
    if any(isinstance(one, TimeoutError) or "Timeout" in type(one).__name__ for one in _chain(error)):
        return "there was no answer in time"
    return type(error).__name__


def answer(error: BaseException) -> str:
    """Return why a database can't be used, in one line: its own message, which contains no secret of ours.

    If the driver can't use the URL or the environment, name the environment variables that are set instead.
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


def _describe(error: BaseException) -> str | None:
    """Return the reason given by an exception itself, apart from its causes, or None."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return "the name of the host is not known"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (number := _number(error)):
        return os.strerror(number)
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate and type(error).__name__ != "Error":  # the name of SQLAlchemy's wrapper
        # asyncpg names its classes after the conditions in PostgreSQL's manual, appendix A.
        condition = _CAMEL.sub(" ", type(error).__name__.removesuffix("Error").replace("SQL", "Sql")).lower()
        return f"{condition} (SQLSTATE {sqlstate})"
    return _NAMED.get(type(error).__name__) or getattr(error, "sqlite_errorname", None)


def _number(error: OSError) -> int | None:
    """Return the number of a system error. If several addresses were tried, return that of the first."""
    if error.errno is None and (found := _NUMBER.search(str(error))):
        return int(found[1])
    return error.errno


_NAMED = {"TargetServerAttributeNotMatched": "no host is what target_session_attrs asks for"}
_NUMBER = re.compile(r"\[Errno ([0-9]{1,4})\]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def environment_fault() -> str:
    """Return the error message for an environment that no client can use, with the wrong variable."""
    names = [name for name in os.environ if name.lower() in ENVIRONMENT]
    given = wrong_variable() or ", ".join(sorted(names)) or "its proxy or certificates"
    return f"the environment cannot be used: look at {given}"


def wrong_variable() -> str | None:
    """Return the name of an environment variable that no library can use, with its rule, or None."""
    for name, value in sorted(os.environ.items()):
        kind = name.lower()
        if kind in _PROXIES and value and not _is_proxy(value):
            return f"{name}: it must be a URL such as http://proxy.example.com:3128"
        if name == "SSLKEYLOGFILE" and value and (fault := _unwritable(value)):
            return f"{name}: the file cannot be written to: {fault}"
    return None


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}+(?<!-)")
_MAX_HOST_LENGTH = 253


def is_host(host: str) -> bool:
    """Whether this is an IP address or a valid host name (RFC 1123, section 2.1)."""
    if ":" in host:
        return True  # an IPv6 address in brackets, which the URL parser has checked
    name = host.removesuffix(".")
    return len(name) <= _MAX_HOST_LENGTH and all(_LABEL.fullmatch(label) for label in name.split("."))


def _is_proxy(value: str) -> bool:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        _ = url.port
    except ValueError:
        return False
    host = url.hostname or ""
    return bool(host) and (not host.isascii() or is_host(host))


def _unwritable(path: str) -> str | None:
    """Return why a file can't be appended to, or None. A missing file is not created."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except FileNotFoundError as error:
        return None if os.access(os.path.dirname(path) or ".", os.W_OK) else error.strerror  # noqa: PTH120
    except OSError as error:
        return error.strerror
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes and contexts, and the members of groups, each once."""
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
