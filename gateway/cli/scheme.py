"""Which of HTTP and HTTPS a server speaks, where the one that was tried has failed."""

import socket
import ssl
from urllib.parse import urlsplit

_PATIENCE = 2.0
"""How long a server may take to answer, in seconds."""

_PORTS = {"http": 80, "https": 443}


def wrong_scheme(server: str) -> str | None:
    """Return what to say where the server speaks the other scheme than its URL has; None where it does not.

    It asks the server itself, for libraries tell of this in many ways.
    """
    url = urlsplit(server)
    place = (url.hostname or "", url.port or _PORTS[url.scheme])
    try:
        if url.scheme == "https" and _speaks_http(place):
            return "this server speaks plain HTTP: use http://"
        if url.scheme == "http" and _speaks_tls(place):
            return "this server speaks HTTPS: use https://"
    except (OSError, ValueError):  # such as a name that cannot be looked up
        pass
    return None


def _speaks_http(place: tuple[str, int]) -> bool:
    """Whether a plain request is answered. Servers of HTTPS answer it as well, but with 400."""
    with socket.create_connection(place, _PATIENCE) as connection:
        connection.sendall(b"HEAD /healthz HTTP/1.0\r\n\r\n")
        version, _, rest = connection.makefile("rb").readline(100).partition(b" ")
    return version.startswith(b"HTTP/") and not rest.startswith(b"400")


def _speaks_tls(place: tuple[str, int]) -> bool:
    """Whether TLS begins; whose certificate it has does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(place, _PATIENCE) as connection,
        context.wrap_socket(connection, server_hostname=place[0]),
    ):
        return True
