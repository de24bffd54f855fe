"""A new database for each server, and the CPU of the Postgres that holds it."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from benchmarks.process import children, cpu, stat


class Database:
    """An empty database. `postmaster` is the process id of its Postgres, where it runs on this machine."""

    def __init__(self, url: str, postmaster: int | None = None) -> None:
        self.url = url
        self._postmaster = postmaster

    def cpu(self) -> float | None:
        """Return the CPU that all processes of its Postgres have used, in seconds, or None."""
        if self._postmaster is None:
            return None
        own = cpu(stat(Path("/proc", str(self._postmaster), "stat")), children=True)
        return own + sum(cpu(fields) for fields in children(self._postmaster).values())


@asynccontextmanager
async def new_database(server: str | None, folder: Path) -> AsyncIterator[Database]:
    """Make an empty database, in the folder or on the Postgres server named, and drop it at the end."""
    if server is None:
        yield Database(f"sqlite:///{folder / 'benchmark.db'}")
        return
    import asyncpg

    name = f"benchmark_{os.getpid()}_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        try:
            url = make_url(server).set(database=name).render_as_string(hide_password=False)
            yield Database(url, _parent(await admin.fetchval("SELECT pg_backend_pid()")))
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def _parent(backend: int) -> int | None:
    """Return the parent of this backend, if it is a process of this machine."""
    folder = Path("/proc", str(backend))
    try:
        if not (folder / "comm").read_text().startswith("postgres"):
            return None
        return int(stat(folder / "stat")[1])
    except OSError:
        return None
