"""`gateway send` and `gateway tail` at a server that speaks the other of HTTP and HTTPS."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.cli.client import ClientError, send, tail
from gateway.cli.scheme import wrong_scheme
from tests.support.servers import LocalServer


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """Return the TLS of a server whose certificate nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "server.pem").write_bytes(private + certificate.public_bytes(pem))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(tmp_path / "server.pem")
    return made


@contextmanager
def serving(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer each connection on a port of this machine, and yield the port.

    With a `context` it begins TLS first. A plain request gets then what `answer` is, as from nginx.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5)
                if context is not None and connection.recv(1, socket.MSG_PEEK) == b"\x16":
                    with context.wrap_socket(connection, server_side=True):
                        continue
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def quiet(_: Any) -> None:
    """Take what is shown or noted."""


async def tailed(url: str) -> str:
    """Return why `gateway tail` ended. It would try for ever where it took this for an outage."""

    def note(said: str) -> None:
        raise AssertionError(f"it connects again: {said}")

    with pytest.raises(ClientError) as raised:
        await tail(url, "token", quiet, note)
    return str(raised.value)


def sent(url: str) -> str:
    with pytest.raises(ClientError) as raised:
        send(url, "ngk_key", {"to": "ada", "title": "T"})
    return str(raised.value)


async def test_https_to_a_plain_http_gateway_gets_a_hint_to_use_http(server: LocalServer) -> None:
    url = server.base.replace("http:", "https:")
    said = f"{url}: this server speaks plain HTTP: use http://"
    assert await tailed(url) == said
    assert await asyncio.to_thread(sent, url) == said


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!"],
    ids=["nothing", "an alert", "a page"],
)
async def test_http_to_an_https_server_gets_a_hint_to_use_https(
    context: ssl.SSLContext, answer: bytes
) -> None:
    with serving(answer, context) as port:
        url = f"http://127.0.0.1:{port}"
        said = f"{url}: this server speaks HTTPS: use https://"
        assert await asyncio.to_thread(sent, url) == said
        assert await tailed(url) == said


def test_a_server_of_the_right_or_an_unknown_scheme_gets_no_scheme_hint(context: ssl.SSLContext) -> None:
    refusal = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with (
        serving(b"", context) as tls,
        serving(refusal) as broken,
        serving(b"HTTP/1.1 200 OK\r\n\r\n") as plain,
    ):
        assert wrong_scheme(f"https://127.0.0.1:{tls}") is None
        assert wrong_scheme(f"http://127.0.0.1:{plain}") is None
        assert wrong_scheme(f"https://127.0.0.1:{broken}") is None
        assert wrong_scheme(f"http://127.0.0.1:{broken}") is None
        assert wrong_scheme(f"https://127.0.0.1:{plain}") == "this server speaks plain HTTP: use http://"
    assert wrong_scheme(f"http://127.0.0.1:{plain}") is None
    assert wrong_scheme("https://" + "x" * 70 + ".invalid") is None
