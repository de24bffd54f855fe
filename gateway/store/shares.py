"""Shares: a limit on the concurrent work of each user, so that one user can't hold up the others."""

import asyncio
from collections import deque


class Shares:
    """Limits each user's concurrent work to a weight of `size`. Further work waits in order of arrival.

    Work that weighs more than `size` runs alone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken: dict[int, int] = {}
        self._waiting: dict[int, deque[tuple[int, asyncio.Future[None]]]] = {}

    async def take(self, user_id: int, weight: int) -> None:
        """Wait until there is room for work of this weight. The caller must return it with `release`.

        A cancelled caller takes nothing.
        """
        taken = self._taken.get(user_id, 0)
        if not taken or (user_id not in self._waiting and taken + weight <= self._size):
            self._taken[user_id] = taken + weight
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append((weight, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # `release` had already given it room.
                self.release(user_id, weight)
            raise

    def release(self, user_id: int, weight: int) -> None:
        """Return the weight that was taken, and resume the waiting callers that now have room."""
        taken = self._taken.pop(user_id) - weight
        waiting = self._waiting.get(user_id, deque())
        while waiting and (waiting[0][1].cancelled() or not taken or taken + waiting[0][0] <= self._size):
            one, turn = waiting.popleft()
            if not turn.cancelled():
                taken += one
                turn.set_result(None)
        if not waiting:
            self._waiting.pop(user_id, None)
        if taken:
            self._taken[user_id] = taken
