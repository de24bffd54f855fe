"""Web origins: how one is written, and whether a page's is the gateway's own (RFC 6454)."""

import re
from ipaddress import ip_address

import structlog

logger = structlog.get_logger(__name__)

_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]{0,31})://(\[[0-9a-f:.]+\]|[^\s/?#@:*\\\[\]]{1,255})(?::([0-9]{1,5}))?", re.ASCII
)
_NO_ORIGINS = {"ws", "wss", "file", "ftp"}
"""Schemes whose pages, if any, have no origin that a browser says."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def read_origin(text: str) -> str | None:
    """Return an origin as browsers write it: in lower case, in ASCII and without the default port.

    Its scheme is http, https, or one of an app (`capacitor://localhost`). None for anything else: `null`, a
    wildcard, a path, a user name, a name that no host can have.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found.groups()
    if scheme in _NO_ORIGINS:
        return None
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return None
    return f"{scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS.get(scheme)} else f":{port}")


def why_no_origin(text: str) -> str:
    """Return what to do about a text for which `read_origin` returns None."""
    shown = repr(text)
    if "*" in text:
        return f"{shown}: there is no wildcard: name each origin"
    if any(one in " \t\n;[]\"'" for one in _BRACKETED.sub("", text)):
        return f"{shown}: separate origins by commas, without quotes or brackets"
    if read_origin(text.rstrip("/")):
        return f"{shown}: leave out the slash at the end"
    if text != "null" and read_origin(f"https://{text.rstrip('/')}"):
        return f"{shown}: begin with https://, or http://"
    return f"{shown} is not an origin such as https://app.example.com"


_BRACKETED = re.compile(r"://\[[0-9A-Fa-f:.]+\]")


def own_origin(scheme: str, host: str) -> str | None:
    """Return the origin that a request reached: `scheme` as ASGI has it, `host` the header Host."""
    return read_origin(f"{'https' if scheme in {'https', 'wss'} else 'http'}://{host}")


_MAX_LOGGED = 100
_MAX_ORIGIN = 255
_logged: set[tuple[str | None, str | None]] = set()


def log_refused(origin: str | None, own: str | None) -> None:
    """Log that pages of an origin are refused, once for each origin, and for `_MAX_LOGGED` of them at most.

    `origin` is None where it is not an http or https origin, `own` where the request names no host.
    """
    refused = (origin and origin[:_MAX_ORIGIN], own and own[:_MAX_ORIGIN])
    if refused in _logged or len(_logged) >= _MAX_LOGGED:
        return
    _logged.add(refused)
    logger.warning(
        "pages of this origin are refused: list it in GATEWAY_ALLOWED_ORIGINS if they are yours",
        origin=refused[0],
        reached_at=refused[1],
    )


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
