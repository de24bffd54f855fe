"""Redis URLs, validated at startup because the driver notices most faults only later."""

from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

EXAMPLE = "redis://:password@host:6379/0"

_PARAMETERS: dict[str, Callable[[str], object]] = {
    "client_name": str,
    "db": int,
    "health_check_interval": int,
    "max_connections": int,
    "protocol": ("2", "3").index,
    "socket_connect_timeout": float,
    "socket_timeout": float,
    "ssl_ca_certs": str,
    "ssl_cert_reqs": ("none", "optional", "required").index,
    "ssl_certfile": str,
    "ssl_check_hostname": ("true", "false", "True", "False").index,
    "ssl_keyfile": str,
}


def check_redis_url(text: str) -> None:
    """Raise `ValueError` if a text is not a valid Redis URL. The message never holds a part of a password."""
    if not text.startswith(("redis://", "rediss://")):
        raise ValueError("it must begin with redis:// or rediss://")
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise ValueError(f"it is not a URL such as {EXAMPLE}: {_ENCODE}") from None
    if "@" in url.path + url.query + url.fragment or url.fragment or not url.hostname:
        raise ValueError(f"it is not a URL such as {EXAMPLE}: {_ENCODE}")
    number = unquote(url.path).strip("/")
    if number and not (number.isascii() and number.isdigit()):
        raise ValueError("what follows the host must be the number of a database, such as /0")
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        _check_parameter(name, value, is_tls=url.scheme == "rediss")


def without_password(url: str) -> str:
    """Return a valid Redis URL, reduced to its scheme, host, port and database."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 6379}{parts.path}"


_ENCODE = "in a password write / as %2F, @ as %40, : as %3A, # as %23 and ? as %3F"


def _check_parameter(name: str, value: str, *, is_tls: bool) -> None:
    if name not in _PARAMETERS or (name.startswith("ssl_") and not is_tls):
        known = sorted(one for one in _PARAMETERS if is_tls or not one.startswith("ssl_"))
        raise ValueError(f"the parameter {name[:40]!r} is not known: those are {', '.join(known)}")
    try:
        _PARAMETERS[name](value)
    except ValueError:
        raise ValueError(f"the parameter {name!r} cannot have that value") from None
