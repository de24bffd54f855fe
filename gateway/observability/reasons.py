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
    """Return what to say where no client could be made from the environment, and which variable is wrong."""
    names = [name for name in os.environ if name.lower() in ENVIRONMENT]
    given = wrong_variable() or ", ".join(sorted(names)) or "its proxy or certificates"
    return f"the environment cannot be used: look at {given}"


def wrong_variable() -> str | None:
    """Return the name of a variable that no library can use, and its rule; None where there is none."""
    for name, value in sorted(os.environ.items()):
        kind = name.lower()
        if kind in _PROXIES and value and not _is_proxy(value):
            return f"{name}: it must be a URL such as http://proxy.example.com:3128"
        if name == "SSLKEYLOGFILE" and value and (fault := _unwritable(value)):
            return f"{name}: the file cannot be written to: {fault}"
    return None


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}+(?<!-)")
_LONGEST_HOST = 253


def is_host(host: str) -> bool:
    """Whether this is an IP address or a host name that can be looked up (RFC 1123, section 2.1)."""
    if ":" in host:
        return True  # an address in brackets, which the parser of URLs has checked
    name = host.removesuffix(".")
    return len(name) <= _LONGEST_HOST and all(_LABEL.fullmatch(label) for label in name.split("."))


def _is_proxy(value: str) -> bool:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        _ = url.port
    except ValueError:
        return False
    host = url.hostname or ""
    return bool(host) and (not host.isascii() or is_host(host))


def _unwritable(path: str) -> str | None:
    """Return why a file cannot be appended to. One that is not there is not made."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except FileNotFoundError as error:
        return None if os.access(os.path.dirname(path) or ".", os.W_OK) else error.strerror  # noqa: PTH120
    except OSError as error:
        return error.strerror
    return None


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
