"""Background tasks: named tasks that run as long as the application, and stop the process if one fails."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import structlog

from gateway.errors import Unavailable
from gateway.observability.reasons import reason

logger = structlog.get_logger()

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


async def every(seconds: float, look: Callable[[], Awaitable[None]]) -> None:
    """Call `look` every `seconds`, until cancelled. Log an unavailable database once, and continue."""
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await look()
            failing = False
        except (Unavailable, OSError) as error:
            if not failing:
                logger.warning("a background task failed, and continues", reason=reason(error))
            failing = True
