"""A probe for whether a server speaks HTTP or HTTPS, after a request with one of them has failed."""

import socket
import ssl
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 2.0
"""How long to wait for the server, in seconds."""

_PORTS = {"http": 80, "https": 443}


def wrong_scheme(server: str) -> str | None:
    """Return advice if the server speaks the other scheme than its URL has, else None.

    Probes the server itself, because libraries report this fault in many ways.
    """
    url = urlsplit(server)
    place = (url.hostname or "", url.port or _PORTS[url.scheme])
    try:
        if url.scheme == "https" and _speaks_http(place):
            return "this server speaks plain HTTP: use http://"
        if url.scheme == "http" and _speaks_tls(place):
            return "this server speaks HTTPS: use https://"
    except (OSError, ValueError):  # such as a failed DNS lookup
        pass
    return None


def _speaks_http(place: tuple[str, int]) -> bool:
    """Return whether the server answers plain HTTP. An HTTPS server may answer it, too, but with 400."""
    with socket.create_connection(place, _TIMEOUT_SECONDS) as connection:
        connection.sendall(b"HEAD /healthz HTTP/1.0\r\n\r\n")
        version, _, rest = connection.makefile("rb").readline(100).partition(b" ")
    return version.startswith(b"HTTP/") and not rest.startswith(b"400")


def _speaks_tls(place: tuple[str, int]) -> bool:
    """Return whether a TLS handshake succeeds, with any certificate. Raises `OSError` if not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(place, _TIMEOUT_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=place[0]),
    ):
        return True
