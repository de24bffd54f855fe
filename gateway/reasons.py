"""Why something outside failed, in words that hold no secret.

The text of a library's exception may hold what it was given: a header with its token, a URL with its
password. So none is shown. Shown are the system's words for a number, what a certificate is refused for,
and names of exceptions.
"""

import os
import socket
import ssl
from collections.abc import Iterator

ENVIRONMENT = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
"""The variables of the environment that a library reads to reach a server."""


def reason(error: BaseException) -> str:
    """Return why something failed, in one line without a secret."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {one.verify_message}"
        if isinstance(one, socket.gaierror):
            return "the name of the host is not known"
        if isinstance(one, OSError) and one.errno is not None and not isinstance(one, ssl.SSLError):
            return os.strerror(one.errno)
    if any(isinstance(one, TimeoutError) or "Timeout" in type(one).__name__ for one in _chain(error)):
        return "there was no answer in time"
    return type(error).__name__


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
