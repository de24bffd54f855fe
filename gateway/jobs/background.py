"""Background work: named tasks that run while the application does, and end the process when one fails."""

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
"""The name of a task, and the coroutine that it runs until it is cancelled."""


@asynccontextmanager
async def running(*works: Work) -> AsyncIterator[None]:
    """Run each coroutine in a task of its own, and cancel them after the block.

    One that fails cancels the block: a gateway that half works is worse than none.
    """
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(coroutine, name=name) for name, coroutine in works]
        yield
        for task in background:
            task.cancel()


@asynccontextmanager
async def ending_the_process() -> AsyncIterator[None]:
    """End the process when what runs inside fails: uvicorn would go on serving without it."""
    try:
        yield
    except Exception:
        logger.critical("a background task has died, and the gateway with it", exc_info=True)
        signal.raise_signal(signal.SIGTERM)
        raise


async def every(seconds: float, look: Callable[[], Awaitable[None]]) -> None:
    """Call `look` again and again. A database that is away is logged once, and is no fault of the program."""
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await look()
            failing = False
        except (Unavailable, OSError) as error:
            if not failing:
                logger.warning("a background task failed; it goes on", reason=reason(error))
            failing = True
