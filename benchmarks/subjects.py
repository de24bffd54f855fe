"""What is measured: the gateway, and the tutorial style beside it, each a real server in its own process."""

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import ClassVar, TypeVar

import jwt
from sqlalchemy.engine import make_url

from benchmarks.client import HttpConnection, connect, request
from benchmarks.databases import Database, new_database
from benchmarks.process import Process, environment

A = TypeVar("A")
T = TypeVar("T")

LOAD_LIMIT = 600.0
"""The longest any one load may take, in seconds."""

TOKEN_TTL = 86_400

PYTHON: ContextVar[str] = ContextVar("PYTHON", default=sys.executable)
"""The interpreter that runs the gateway. Its environment decides which checkout is measured (`compare`)."""

_ROOT = Path(__file__).parent.parent


async def each(values: Iterable[T], workers: Sequence[A], job: Callable[[A, T], Awaitable[None]]) -> None:
    """Run `job` for each value, as many at once as there are workers; each job has a worker to itself."""
    waiting = iter(values)

    async def work(worker: A) -> None:
        for value in waiting:
            await job(worker, value)

    async with asyncio.timeout(LOAD_LIMIT), asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(work(worker))


class Subject(ABC):
    """A running server and how to speak to it."""

    name: ClassVar[str]
    posts: ClassVar[str]
    sockets: ClassVar[str]

    def __init__(self, server: Process, database: Database, bearer: str) -> None:
        self.server = server
        self.database = database
        self.bearer = bearer

    @asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[list[HttpConnection]]:
        """Open this many HTTP connections."""
        opened = [await connect(self.server.port) for _ in range(count)]
        try:
            yield opened
        finally:
            for connection in opened:
                connection.close()

    @abstractmethod
    async def tokens(self, subs: Sequence[str]) -> list[str]:
        """Return an access token for each of these users; one named twice gets two."""


class Gateway(Subject):
    """`python -m gateway serve`."""

    name = "gateway"
    posts = "/v1/notifications"
    sockets = "/v1/ws"

    async def tokens(self, subs: Sequence[str]) -> list[str]:
        """Have them minted, as a service does for its own users."""
        tokens = [""] * len(subs)

        async def mint(connection: HttpConnection, number: int) -> None:
            body = b'{"ttl":%d}' % TOKEN_TTL
            asked = request("POST", f"/v1/users/{subs[number]}/tokens", self.bearer, body)
            tokens[number] = json.loads((await connection.send(asked)).body)["access_token"]

        async with self.connections(32) as connections:
            await each(range(len(subs)), connections, mint)
        return tokens


class Tutorial(Subject):
    """`benchmarks/tutorial.py` under uvicorn as it comes, without an access log."""

    name = "tutorial style"
    posts = "/notifications"
    sockets = "/ws"

    def __init__(self, server: Process, database: Database, secret: str) -> None:
        self._secret = secret
        super().__init__(server, database, self._sign("backend"))

    def _sign(self, sub: str) -> str:
        now = int(time.time())
        claims = {
            "sub": sub,
            "aud": "tutorial",
            "iat": now,
            "exp": now + TOKEN_TTL,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, self._secret, "HS256")

    async def tokens(self, subs: Sequence[str]) -> list[str]:
        """Sign them here: how they are made is not measured."""
        return [self._sign(sub) for sub in subs]


@asynccontextmanager
async def gateway(
    database: str | None,
    prepare: Callable[[str], Awaitable[None]] | None = None,
    *,
    workers: int = 1,
    pinned: bool = True,
    **settings: str,
) -> AsyncIterator[Gateway]:
    """Run a gateway on a new database; `prepare` is given its URL when its tables are made.

    A server of several workers needs several cores: it is not `pinned`. What else is named is a setting.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        made = await stack.enter_async_context(new_database(database, folder))
        environs = {f"GATEWAY_{name.upper()}": value for name, value in settings.items()} | {
            "GATEWAY_DATABASE_URL": made.url,
            "GATEWAY_LOG_LEVEL": "warning",
            "GATEWAY_ACCESS_TOKEN_TTL": str(TOKEN_TTL),
            # The whole load comes from one address.
            "GATEWAY_HANDSHAKES_PER_SECOND": "1000000",
            "GATEWAY_POSTS_PER_SECOND": "1000000",
            # Each of them comes from one user or one service.
            "GATEWAY_COMMANDS_PER_SECOND": "1000000",
            "GATEWAY_SERVICE_CALLS_PER_SECOND": "1000000",
            "GATEWAY_TOKENS_PER_SECOND": "1000000",
            "GATEWAY_TOKENS_PER_MINUTE": "1000000",
            "GATEWAY_AUTH_PER_SECOND": "1000000",
            "GATEWAY_LOGIN_LIMIT": "1000/minute",
            "GATEWAY_LOGIN_LIMIT_PER_ADDRESS": "10000/minute",
        }
        manage = _Manager(environs, folder)
        await manage("migrate")
        scopes = [part for scope in ("notify", "tokens:mint", "admin") for part in ("--scope", scope)]
        service = json.loads(await manage("service", "add", "benchmark", *scopes))
        key = json.loads(await manage("key", "add", service["client_id"]))["key"]
        if prepare is not None:
            await prepare(made.url)
        command = ["-m", "gateway", "serve", "--port", "{port}"]
        if workers > 1:
            command += ["--workers", str(workers)]
        server = Process(command, environs, folder, pinned=pinned, python=PYTHON.get())
        stack.push_async_callback(server.stop)
        await server.start()
        yield Gateway(server, made, key)


class _Manager:
    """The command line of the gateway."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        self._environment = environment(settings)
        self._folder = folder

    async def __call__(self, *arguments: str) -> str:
        """Run a command and return what it printed. Raises RuntimeError with its complaint."""
        done = await asyncio.to_thread(
            subprocess.run,
            [PYTHON.get(), "-m", "gateway", *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"gateway {' '.join(arguments)}: {done.stderr or done.stdout}")
        return str(done.stdout)


@asynccontextmanager
async def tutorial(database: str | None) -> AsyncIterator[Tutorial]:
    """Run the tutorial style on a new database."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        made = await stack.enter_async_context(new_database(database, folder))
        url = make_url(made.url)
        driver = "sqlite+aiosqlite" if url.drivername == "sqlite" else "postgresql+asyncpg"
        secret = secrets.token_hex(32)
        settings = {
            "TUTORIAL_DATABASE_URL": url.set(drivername=driver).render_as_string(hide_password=False),
            "TUTORIAL_SECRET": secret,
        }
        command = ["-m", "uvicorn", "benchmarks.tutorial:app", "--port", "{port}", "--app-dir", str(_ROOT)]
        server = Process([*command, "--log-level", "warning", "--no-access-log"], settings, folder)
        stack.push_async_callback(server.stop)
        await server.start()
        yield Tutorial(server, made, secret)
