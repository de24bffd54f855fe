"""Opening connections to Postgres: a cancelled caller doesn't cancel it.

asyncpg leaves things behind if it is cancelled while it connects: a future whose exception nobody retrieves,
or an open socket. So each connection opens in its own task, and is closed if its caller has gone.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import asyncpg

LAST_SECONDS = 1.0
"""How long `end` waits for connections that are being opened or closed."""

_CLOSE_SECONDS = 2.0


class Openings:
    """The connections that are being opened, and those that nobody has waited for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, *args: Any, **options: Any) -> asyncpg.Connection:
        """Open a connection. The arguments and errors are those of `asyncpg.connect`."""
        opening = self._start(asyncpg.connect(*args, **options))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._start(_close(opening))
            raise

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self) -> None:
        """Wait for the rest, for `LAST_SECONDS` at most. Cancel what a hanging server then still holds up."""
        rest = set(self._tasks)
        if rest:
            await asyncio.wait(rest, timeout=LAST_SECONDS)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


async def _close(opening: asyncio.Task[asyncpg.Connection]) -> None:
    """Close a connection once it is open. It may have failed, and nobody is told."""
    with suppress(Exception):
        connection = await opening
        await connection.close(timeout=_CLOSE_SECONDS)
