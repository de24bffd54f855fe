"""Worker heartbeats: the event loop of a worker writes bytes to a pipe, and the supervisor watches for them.

The event loop writes them itself. A thread would keep writing while the event loop hangs.
"""

import asyncio
import os
from contextlib import suppress

INTERVAL_SECONDS = 1.0
"""Time between two heartbeats, in seconds."""

MAX_SILENCE = 30
"""Maximum number of intervals without a heartbeat before a worker counts as hung."""

_READ = 1024


def start(pipe: int) -> None:
    """Send heartbeats from the running event loop, until it ends or the other end of the pipe closes."""
    os.set_blocking(pipe, False)
    _beat(asyncio.get_running_loop(), pipe)


def _beat(loop: asyncio.AbstractEventLoop, pipe: int) -> None:
    try:
        # A full pipe means that the supervisor isn't reading. Don't wait for it.
        with suppress(BlockingIOError):
            os.write(pipe, b"\n")
    except BrokenPipeError:
        return
    loop.call_later(INTERVAL_SECONDS, _beat, loop, pipe)


async def falls_silent(beats: asyncio.StreamReader, first: int, later: int) -> bool:
    """Wait until the heartbeats stop. Return True if the pipe is still open, False if it was closed.

    The first heartbeat may take `first` intervals, and each further one `later` intervals. The function
    counts intervals instead of measuring time: after a pause of the whole machine, the supervisor may run
    before the worker, and then counts only one missed interval.
    """
    missed, allowed = 0, first
    while missed < allowed:
        try:
            async with asyncio.timeout(INTERVAL_SECONDS):
                if not await beats.read(_READ):
                    return False
        except TimeoutError:
            missed += 1
        else:
            missed, allowed = 0, later
    return True
