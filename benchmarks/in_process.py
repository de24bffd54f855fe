"""The gateway in a thread of this process, where its work can be counted, on a new SQLite database."""

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import uvloop
from sqlalchemy import Connection

from gateway.app import create_app
from gateway.auth import services
from gateway.auth.tokens import digest
from gateway.database import schema
from gateway.database.database import open_database
from gateway.observability import console_log
from gateway.server.process import Server
from gateway.server.run import listen, server_config
from gateway.settings import Settings

TURNS = 10
"""How many turns of its event loop the gateway gets to finish the work behind a response."""


class LocalGateway:
    """A gateway that serves on a port of the loopback interface. `bearer` is the key of a service."""

    def __init__(self, port: int, bearer: str, loop: asyncio.AbstractEventLoop) -> None:
        self.port = port
        self.bearer = bearer
        self._loop = loop

    def settle(self) -> None:
        """Block until the gateway has done what remains behind its responses."""
        turn = threading.Lock()
        for _ in range(TURNS):
            turn.acquire()
            # A function in C: the loop counts no instruction for it.
            self._loop.call_soon_threadsafe(turn.release)
            turn.acquire()
            turn.release()


@contextmanager
def local_gateway() -> Iterator[LocalGateway]:
    """Serve from a new thread until the block ends, without the settings of this process's environment."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, _no_settings():
        settings = Settings(
            _env_file=None,
            database_url=f"sqlite:///{folder}/benchmark.db",
            port=0,
            reconcile_interval=3600,
            tokens_per_minute=1e6,
        )
        console_log.configure("warning", access_log=False, as_json=False)
        key_id, secret, key = services.new_key()
        asyncio.run(_prepare(settings, key_id, secret))
        listener = listen(settings)
        port = listener.getsockname()[1]
        started: Future[asyncio.AbstractEventLoop] = Future()
        ending = asyncio.Event()
        thread = threading.Thread(target=_run, args=(settings, listener, started, ending), name="gateway")
        thread.start()
        loop = started.result()
        try:
            yield LocalGateway(port, key, loop)
        finally:
            loop.call_soon_threadsafe(ending.set)
            thread.join()


@contextmanager
def _no_settings() -> Iterator[None]:
    names = [name for name in os.environ if name.startswith("GATEWAY_")]
    values = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(values)


async def _prepare(settings: Settings, key_id: str, secret: str) -> None:
    """Make the tables, and a service with a key."""

    def add_service(connection: Connection) -> None:
        service = services.add_service(connection, "benchmark", ["notify", "tokens:mint"], b"", 0)
        services.add_key(connection, service.client_id, key_id, digest(secret), 0)

    async with open_database(settings) as database:
        await database.write(schema.upgrade)
        await database.write(add_service)


def _run(
    settings: Settings,
    listener: socket.socket,
    started: Future[asyncio.AbstractEventLoop],
    ending: asyncio.Event,
) -> None:
    """Run the event loop of the gateway, and report a failure to start."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listener, started, ending))
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


async def _serve(
    settings: Settings,
    listener: socket.socket,
    started: Future[asyncio.AbstractEventLoop],
    ending: asyncio.Event,
) -> None:
    """Serve as `gateway serve` does, without its signals, which only the main thread can handle.

    The periodic tick of the server runs once only, so that it is not counted.
    """
    server = Server(server_config(create_app(settings), settings), settings, lambda: None)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([listener])
    await server.on_tick(0)
    started.set_result(asyncio.get_running_loop())
    await ending.wait()
    await server.shutdown([listener])
