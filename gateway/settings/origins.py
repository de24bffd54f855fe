"""Web origins (RFC 6454): their normal form, the gateway's own origin, and the log of refused ones."""

import re
from ipaddress import ip_address

import structlog

logger = structlog.get_logger(__name__)

_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]{0,31})://(\[[0-9a-f:.]+\]|[^\s/?#@:*\\\[\]]{1,255})(?::([0-9]{1,5}))?", re.ASCII
)
_SCHEMES_WITHOUT_ORIGIN = {"ws", "wss", "file", "ftp"}
"""Schemes that never appear in the `Origin` that a browser sends."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def read_origin(text: str) -> str | None:
    """Return an origin as browsers write it: in lower case, in ASCII and without the default port.

    Its scheme is http, https, or that of an app (`capacitor://localhost`). Return None for anything else:
    `null`, a wildcard, a path, a user name, an invalid host name.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found.groups()
    if scheme in _SCHEMES_WITHOUT_ORIGIN:
        return None
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return None
    return f"{scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS.get(scheme)} else f":{port}")


def why_no_origin(text: str) -> str:
    """Return the message for a text for which `read_origin` returns None: what is wrong, or what to do."""
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
    """Return the origin that a request was sent to, from the ASGI `scheme` and the `Host` header."""
    return read_origin(f"{'https' if scheme in {'https', 'wss'} else 'http'}://{host}")


_MAX_LOGGED = 100
_MAX_ORIGIN = 255
_logged: set[tuple[str | None, str | None]] = set()


def log_refused(origin: str | None, own: str | None) -> None:
    """Log that pages of an origin are refused, once for each origin, and for at most `_MAX_LOGGED` origins.

    `origin` is None if it is not a valid origin, and `own` is None if the request names no valid host.
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
    """Return whether a server bound to `host` can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
