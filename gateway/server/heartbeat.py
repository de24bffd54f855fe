"""Heartbeats of a worker: a byte down its pipe whenever its event loop gets to it, and who watches for them.

They are written by the event loop and not by a thread, which would go on while the event loop hangs.
"""

import asyncio
import os
from contextlib import suppress

INTERVAL = 1.0
"""Time between two heartbeats, in seconds."""

MAX_SILENCE = 30
"""How many intervals an event loop may miss before its worker is taken to hang."""

_READ = 1024


def start(pipe: int) -> None:
    """Send heartbeats from the running event loop until it ends, or until nobody has the other end."""
    os.set_blocking(pipe, False)
    _beat(asyncio.get_running_loop(), pipe)


def _beat(loop: asyncio.AbstractEventLoop, pipe: int) -> None:
    try:
        # A supervisor that reads nothing for hours is no reason to wait for it.
        with suppress(BlockingIOError):
            os.write(pipe, b"\n")
    except BrokenPipeError:
        return
    loop.call_later(INTERVAL, _beat, loop, pipe)


async def is_lost(beats: asyncio.StreamReader, first: int, later: int) -> bool:
    """Wait until the heartbeats end, and return whether the other end still has the pipe.

    The first may be missing for `first` intervals, and each further one for `later`. Intervals are counted in
    place of time: after a pause of the whole machine the supervisor may come first, and has missed just one.
    """
    missed, allowed = 0, first
    while missed < allowed:
        try:
            async with asyncio.timeout(INTERVAL):
                if not await beats.read(_READ):
                    return False
        except TimeoutError:
            missed += 1
        else:
            missed, allowed = 0, later
    return True
