"""The steps of `gateway serve`: upgrade the schema, set up the demo, and run uvicorn with our options."""

import errno
import gc
import json
import secrets
import socket
import time
from collections.abc import Callable

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Connection

from gateway import __version__
from gateway.api.demo import CODE_SCOPE, CODE_TTL_SECONDS, DEMO
from gateway.app import create_app
from gateway.auth import services, sessions, tickets, users
from gateway.auth.passwords import hash_password
from gateway.auth.signing import Keyring
from gateway.auth.tokens import digest
from gateway.database import schema
from gateway.database.database import open_database
from gateway.jobs.memory import limit_holes
from gateway.protocol.times import now_ms
from gateway.protocol.wire import MAX_FRAME
from gateway.server.process import Server
from gateway.settings import Settings, SettingsError
from gateway.transport import open_files, socket_buffers
from gateway.transport.acceptor import BACKLOG
from gateway.transport.forwarded import Forwarded
from gateway.transport.headers import COMMON_HEADERS
from gateway.transport.http import http_protocol
from gateway.transport.websocket import GatewayWebSocket

logger = structlog.get_logger()

_LAST_PORT = 65535


def listen(settings: Settings, inherited: int | None = None) -> socket.socket:
    """Return a socket that listens on the configured address, or the one that a worker has inherited.

    Raises `SettingsError` if it can't listen.
    """
    listener = _listen(settings, settings.port) if inherited is None else socket.socket(fileno=inherited)
    socket_buffers.bound(listener)
    return listener


def check_host(settings: Settings) -> None:
    """Raise `SettingsError` if the gateway can't listen on the host, with any port."""
    _listen(settings, 0).close()


def _listen(settings: Settings, port: int) -> socket.socket:
    host = settings.host.strip("[]")
    way_out = ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Encode it here, because Python leaks a socket if it fails to encode the host.
        address = (host.encode("idna").decode(), port)
        # `::` means all addresses of this machine, including IPv4 if the system supports it.
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        # Python's text repeats the address after "(while".
        why = str(error.strerror).partition(" (while")[0]
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < _LAST_PORT else port - 1
            way_out = f": stop what listens there, or take another port: --port {other}"
    except UnicodeError:
        why = "it is not a host name"
    where = f"{settings.host}:{settings.port}"
    raise SettingsError(f"GATEWAY_HOST, GATEWAY_PORT: cannot listen on {where} ({why}){way_out}")


def serve(
    settings: Settings,
    listener: socket.socket,
    started: Callable[[], None] = lambda: None,
    *,
    demo: bool = False,
) -> bool:
    """Serve until a stop signal, and return whether the server started and ended well."""
    open_files.raise_limit()
    limit_holes()

    def begun() -> None:
        logger.info("serving", host=settings.host, port=listener.getsockname()[1], version=__version__)
        started()

    server = Server(server_config(create_app(settings, demo_mode=demo), settings), settings, begun)
    # Loaded modules stay, and requests make thousands of short-lived objects: collect fewer, less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    try:
        server.run(sockets=[listener])
    except SystemExit:
        # uvicorn exits like this if the application can't start. It has logged the reason.
        return False
    return server.ended_well


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return the configuration with which uvicorn serves the application."""
    return _Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        http=http_protocol(
            head_timeout=settings.header_timeout, body_timeout=settings.body_timeout, mount=settings.mount
        ),
        ws=GatewayWebSocket,
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.ping_timeout,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
        access_log=settings.access_log,
        log_config=None,
        server_header=False,
        headers=COMMON_HEADERS,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=list(settings.forwarded_allow_ips),
    )


class _Config(uvicorn.Config):
    """A configuration that normalizes the headers of trusted proxies (`forwarded`)."""

    def load(self) -> None:
        """Load the application, and wrap it in `Forwarded` if proxies are trusted."""
        super().load()
        if self.proxy_headers:
            self.loaded_app = Forwarded(self.loaded_app)


async def prepare(settings: Settings, port: int, *, demo: bool) -> str:
    """Upgrade the schema. For a demo, create its data, and return the text to print."""
    async with open_database(settings) as database:
        if await schema.is_pending(database):
            await database.write(schema.upgrade)
        # Check the signing keys here, so that a fault is reported in one line instead of by the application.
        await Keyring(settings, database, time.time).start()
        if not demo:
            return ""
        password, (key_id, secret, key) = secrets.token_urlsafe(12), services.new_key()
        hashed, now = hash_password(password, "demo"), now_ms()
        code = secrets.token_urlsafe(32)
        await database.write(_make_demo, hashed, key_id, digest(secret), digest(code), now)
        return _demo_text(settings.host, port, password, key, code)


def _make_demo(
    connection: Connection,
    password_hash: str,
    key_id: str,
    secret_hash: bytes,
    code_hash: bytes,
    now_ms: int,
) -> None:
    """Create the user and the service `demo`. Replace the password, key and code of an earlier start."""
    users.add_missing_users(connection, ["demo"], now_ms)
    changes = {"password_hash": password_hash, "disabled": False}
    users.update_user(connection, "demo", changes, now_ms)
    if services.find_service(connection, "demo") is None:
        unusable = digest(secrets.token_urlsafe(32))
        services.add_service(connection, "demo", ["notify"], unusable, now_ms, client_id="demo")
    for key in services.list_keys(connection, "demo", "", 1000):
        services.delete_key(connection, "demo", key.id)
    services.add_key(connection, "demo", key_id, secret_hash, now_ms)
    # The code has its own session, which issues no tokens, because a ticket ends with its session.
    expires_at = now_ms + CODE_TTL_SECONDS * 1000
    session = sessions.new_session(expires_at)
    sessions.start_user_session(connection, DEMO, session, now_ms)
    tickets.withdraw_tickets(connection, CODE_SCOPE)
    ticket = tickets.NewTicket(code_hash, session.id, CODE_SCOPE, expires_at, expires_at)
    tickets.add_ticket(connection, ticket)


def _demo_text(host: str, port: int, password: str, key: str, code: str) -> str:
    host = host.strip("[]")
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    body = json.dumps({"to": "demo", "title": "Hello from curl", "body": "It arrived."})
    return (
        f"\n  The inbox:  {address}/#code={code}\n"
        "              (signs you in: once, within ten minutes)\n"
        f"  Sign in:    demo / {password}\n\n"
        "  Post a notification:\n\n"
        f"  curl -X POST {address}/v1/notifications \\\n"
        f"    -H 'Authorization: Bearer {key}' \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        f"    -d '{body}'\n"
    )
