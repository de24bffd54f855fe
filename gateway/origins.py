"""Web origins: how one is written, and whether a page's is the gateway's own (RFC 6454)."""

import re
from ipaddress import ip_address

_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:*\\\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def read_origin(text: str) -> str | None:
    """Return an http or https origin as browsers write it: in lower case and without the default port.

    None for anything else: `null`, a wildcard, a path, a user name, another scheme.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in {None, _DEFAULT_PORTS[scheme]} else f"{scheme}://{host}:{port}"


def own_origin(scheme: str, host: str) -> str | None:
    """Return the origin that a request reached: `scheme` as ASGI has it, `host` the header Host."""
    return read_origin(f"{'https' if scheme in {'https', 'wss'} else 'http'}://{host}")


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
