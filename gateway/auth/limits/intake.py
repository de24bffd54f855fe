"""The intake of large request bodies: limits the bytes held for each caller and schedules the parsing.

A body of up to `SMALL_BODY` bytes is parsed as soon as it arrives, within a millisecond. It counts towards
the limits only while it is incomplete. Larger bodies are parsed one at a time in the whole process, however
many are complete. Callers take turns, and after each turn the event loop runs other work for as long as
the turn took.

A caller is the id of a service, or minus the id of a user.
"""

import asyncio
import time

from gateway.auth.limits.fair_queue import FairQueue
from gateway.errors import Overloaded, RateLimited

SMALL_BODY = 16 * 1024
"""Maximum size of a small body, in bytes: it takes no turn, and isn't counted if it arrives at once."""

MAX_HELD = 8 * 1024 * 1024
"""Maximum bytes of large or incomplete bodies held for one caller, received or still to arrive."""

MAX_HELD_BY_ALL = 128 * 1024 * 1024
"""Maximum bytes of such bodies held for all callers; one caller may hold as many as are left for the rest."""

MAX_WAITING = 10_000
"""Maximum number of bodies that wait for a turn; one caller may have as many as are left for the rest."""

MAX_REST_SECONDS = 0.05
"""Maximum time that the event loop runs other work after a turn."""


class Intake:
    """The large bodies of all callers."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._held_by_all = 0
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(MAX_WAITING)
        self._taken = False

    def hold(self, caller: int, size: int) -> None:
        """Count a body of `size` bytes until `release`.

        Raises `RateLimited` if the caller would exceed its limit, and `Overloaded` if it would hold more than
        is left for all callers. It doesn't wait, because waiting would not bound memory: the bytes that the
        client has sent are already there.
        """
        held = self._held.get(caller, 0) + size
        if held > MAX_HELD:
            raise RateLimited("bodies", quota=MAX_HELD, window=1, retry_after=1)
        if held > MAX_HELD_BY_ALL - self._held_by_all:
            raise Overloaded("Too many larger bodies are on their way.")
        self._held[caller] = held
        self._held_by_all += size

    def release(self, caller: int, size: int) -> None:
        """Stop counting a body that `hold` has counted."""
        self._held_by_all -= size
        if left := self._held.pop(caller) - size:
            self._held[caller] = left

    async def turn(self, caller: int) -> None:
        """Wait for a turn. It ends when the caller next awaits anything, so there is no release.

        Raises `Overloaded` if too many bodies of the caller wait already.
        """
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._rest, loop, time.perf_counter())
            return
        future: asyncio.Future[None] = loop.create_future()
        if not self._waiting.put(caller, 1, future):
            raise Overloaded("Too many larger bodies of yours wait to be read.")
        await future

    def _rest(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        """Let the event loop run other work for as long as the last turn took, then start the next turn."""
        loop.call_later(min(time.perf_counter() - began, MAX_REST_SECONDS), self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            (future,) = self._waiting.take(1)
            if not future.done():
                future.set_result(None)
                # The event loop runs this callback right after the step of the task that has waited.
                loop.call_soon(self._rest, loop, time.perf_counter())
                return
        self._taken = False
