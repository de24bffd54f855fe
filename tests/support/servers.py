"""Real gateways on real ports: in this process, where a leak shows, and in one of their own, to be killed."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import structlog
from fastapi import FastAPI

from gateway.api.state import Gateway
from gateway.app import create_app
from gateway.auth.revocation import Ending
from gateway.database.postgres import PostgresDatabase
from gateway.database.sqlite import SqliteDatabase
from gateway.server.process import Server as GatewayServer
from gateway.server.run import listen, server_config
from gateway.settings import Settings
from tests.support.clients import Service, User, http_client
from tests.support.databases import API_KEY, POLLS_PER_SECOND
from tests.support.postgres import free_port
from tests.support.waiting import until, until_none

StartServer = Callable[..., Coroutine[Any, Any, "LocalServer"]]
"""Starts a gateway with the settings it is given as keywords; it is stopped when the test ends."""


@dataclass
class Server:
    """A gateway that serves, and an HTTP client for it."""

    base: str
    http: httpx.AsyncClient

    @property
    def service(self) -> Service:
        """The service that may do everything."""
        return Service(self.http, API_KEY)

    @property
    def stranger(self) -> Service:
        """Somebody without a token."""
        return Service(self.http, None)

    async def user(self, sub: str = "ada", **fields: Any) -> User:
        """Return a user, signed in by a minted token."""
        return await self.service.user(sub, **fields)


@dataclass
class LocalServer(Server):
    """A gateway on the event loop of the test.

    What it logs as an error fails the test, but for what holds one of the texts in `expected`.
    """

    uvicorn: GatewayServer
    listener: socket.socket
    expected: list[str] = field(default_factory=list)

    @property
    def state(self) -> Gateway:
        """The parts of the gateway, to look at."""
        return _parts(self.uvicorn)

    async def sockets(self, number: int) -> None:
        """Wait until exactly this many sockets are attached."""
        await until(lambda: len(self.state.hub) == number, f"{number} sockets are attached")


_SERVING: list[object] = []
"""One for each of those that serve now: the one that began first ends last."""


@asynccontextmanager
async def serving(settings: Settings, *, demo: bool = False) -> AsyncIterator[LocalServer]:
    """Serve on the running event loop as `gateway serve` does, on a free port: see `serving_all`."""
    async with serving_all(settings, demo=demo) as (server,):
        yield server


@asynccontextmanager
async def serving_all(*each: Settings, demo: bool = False) -> AsyncIterator[list[LocalServer]]:
    """Serve several gateways on the running event loop, each on a free port.

    Afterwards nothing may be left: no socket in the hub, no connection taken from a pool, no task, no open
    transport, and no failure in the log.
    """
    tasks, transports = asyncio.all_tasks(), _transports()
    failures: list[str] = []
    _SERVING.append(failures)
    try:
        with _collect(failures):
            async with AsyncExitStack() as stack:
                servers = [await _serving(stack, settings, demo=demo) for settings in each]
                yield servers
    finally:
        _SERVING.remove(failures)
    # The fixture that ends the server may run in another task than the one that started it.
    await until_none(lambda: asyncio.all_tasks() - tasks - {asyncio.current_task()}, "tasks")
    # One that still serves may have opened a connection to its database meanwhile.
    if not _SERVING:
        await until_none(lambda: _transports() - transports, "transports")
    expected = [text for server in servers for text in server.expected]
    unexpected = [one for one in failures if not any(text in one for text in expected)]
    assert unexpected == [], unexpected


async def _serving(stack: AsyncExitStack, settings: Settings, *, demo: bool) -> LocalServer:
    listener = stack.enter_context(listen(settings))
    config = server_config(create_app(settings, demo_mode=demo), settings)
    server = GatewayServer(config, settings, lambda: None)
    await stack.enter_async_context(_started(server, listener))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return LocalServer(base, await stack.enter_async_context(http_client(base)), server, listener)


@asynccontextmanager
async def _started(server: GatewayServer, listener: socket.socket) -> AsyncIterator[None]:
    """Serve, and stop once the clients are gone.

    That is what `Server.serve` does, without taking the signals from pytest, and without its pauses: there
    is nobody to be drained when no client is left.
    """
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([listener])
    ticking = asyncio.create_task(server.main_loop(), name="uvicorn")
    try:
        yield
        await _let_go(server)
    finally:
        ticking.cancel()
        for acceptor in server.servers:
            acceptor.close()
        await server.lifespan.shutdown()


async def _let_go(server: GatewayServer) -> None:
    """Wait until the gateway has noticed that its clients are gone."""
    state = _parts(server)
    await until_none(lambda: len(state.hub), "sockets in the hub")
    await until_none(lambda: server.server_state.connections, "connections of clients")
    await until_none(lambda: connections_taken(state.database), "connections taken from a pool")


def _parts(server: GatewayServer) -> Gateway:
    return cast("FastAPI", server.config.app).state.gateway  # type: ignore[no-any-return]


def connections_taken(database: object) -> int:
    """Return how many connections are taken from the pools."""
    assert isinstance(database, PostgresDatabase | SqliteDatabase)
    return sum(engine.pool.checkedout() for engine in database.engines)  # type: ignore[attr-defined]


def _transports() -> set[int]:
    """Return the files that the event loop watches."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    return set(selector.get_map())


@contextmanager
def _collect(failures: list[str]) -> Iterator[None]:
    """Note whatever is logged as an error: by structlog, by the standard library, or by the event loop."""
    handler = _Collector(failures)
    logging.getLogger().addHandler(handler)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(str(context)))
    try:
        with structlog.testing.capture_logs() as events:
            yield
    finally:
        loop.set_exception_handler(None)
        logging.getLogger().removeHandler(handler)
        failures += [str(event) for event in events if event["log_level"] in {"error", "critical"}]


class _Collector(logging.Handler):
    def __init__(self, failures: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        self._failures.append(self.format(record))


class Process:
    """`gateway serve` in a process of its own, on one port that it keeps through restarts."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        **settings: object,
    ) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.log = folder / "gateway.log"
        self._folder = folder
        self._options = options
        self._prefix = prefix
        asked = {"database_url": database_url, "commands_per_second": POLLS_PER_SECOND, **settings}
        self._environment = _environment(asked)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._launch()
        await until(self._answers, "the gateway answers", within=60)

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        command = [*self._prefix, *command, *self._options]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                command, env=self._environment, cwd=self._folder, stdout=output, stderr=output
            )

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        # A connection is taken before the application has started; an answer is not given before.
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return bool((await reader.read()).startswith(b"HTTP/1.1 200 "))
        except OSError:
            return False
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def kill(self) -> None:
        """End it as a power cut would: nothing of it runs any more."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, wait for its end, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(30)

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal, and do not wait."""
        assert self._process is not None
        self._process.send_signal(how)

    async def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 30)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None


@asynccontextmanager
async def process(database_url: str, folder: Path, **settings: Any) -> AsyncIterator[tuple[Process, Server]]:
    """Run `gateway serve` with these settings, and end it whatever happens."""
    one = Process(database_url, folder, **settings)
    try:
        await one.start()
        async with http_client(one.base) as http:
            yield one, Server(one.base, http)
    finally:
        if one.runs:
            one.kill()


async def look_for_nothing(_since: float) -> AsyncIterator[list[Ending]]:
    """Find no session that has ended, in place of `Finder.look`: then only who ends one tells of it."""
    pages: tuple[list[Ending], ...] = ()
    for page in pages:
        yield page


@asynccontextmanager
async def processes(
    number: int, database_url: str, folder: Path, **settings: object
) -> AsyncIterator[list[tuple[Process, Server]]]:
    """Run several gateways on one database, as several machines would, each in a folder of its own."""
    async with AsyncExitStack() as stack:
        gateways = []
        for name in range(number):
            home = folder / f"gateway-{name}"
            home.mkdir()
            gateways.append(await stack.enter_async_context(process(database_url, home, **settings)))
        yield gateways


def _environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the environment of a gateway: this process's own, and the settings."""
    named = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, "PYTHONWARNINGS": "", **named}
