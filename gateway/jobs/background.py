"""Background tasks: named tasks that run as long as the application, and stop the process if one fails."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import structlog

from gateway.errors import Unavailable
from gateway.observability.reasons import reason

logger = structlog.get_logger()

T = TypeVar("T")

LAST_SECONDS = 1
"""How long work that is cancelled may go on."""

Work: TypeAlias = tuple[str, Coroutine[Any, Any, None]]
"""The name of a task and the coroutine that it runs until cancelled."""


@asynccontextmanager
async def running(*works: Work) -> AsyncIterator[None]:
    """Run each coroutine in its own task while the block runs, then cancel them.

    A task that fails cancels the block: a gateway that only partly works is worse than a stopped one.
    """
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(coroutine, name=name) for name, coroutine in works]
        yield
        for task in background:
            task.cancel()


@asynccontextmanager
async def ending_the_process() -> AsyncIterator[None]:
    """Stop the process if the block fails. Otherwise uvicorn would continue to serve without it."""
    try:
        yield
    except Exception:
        logger.critical("a background task has failed: the gateway stops", exc_info=True)
        signal.raise_signal(signal.SIGTERM)
        raise


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work. If cancelled, let it end first, for up to `LAST_SECONDS`.

    A driver that is cancelled while it opens a connection leaves an exception behind that nobody retrieves.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=LAST_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def every(seconds: float, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Call `look` every `seconds`, until cancelled. Log an unavailable database once, and continue."""
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await finished(look())
            failing = False
        except (Unavailable, OSError) as error:
            if not failing:
                logger.warning("a background task failed, and continues", reason=reason(error))
            failing = True
