"""A queue that callers share: each gets its turn, and none can fill it.

Work has a weight, which says how long it holds up what comes after it. The work of one caller is taken in the
order in which it came; between callers it goes round in turns.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Lane(Generic[T]):
    """What one caller has waiting."""

    waiting: deque[tuple[int, T]] = field(default_factory=deque)
    weight: int = 0


class FairQueue(Generic[T]):
    """Work that waits, by caller. `capacity` is the weight that may wait in all."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weight = 0
        self._lanes: dict[Hashable, _Lane[T]] = {}
        self._order: deque[Hashable] = deque()
        self._took_large = False

    def __bool__(self) -> bool:
        return bool(self._order)

    def put(self, caller: Hashable, weight: int, work: T) -> bool:
        """Add work of a caller, and return whether there was room for it.

        A caller may have as much waiting as is left for all others: one alone fills half of the queue, and
        each further one finds room.
        """
        lane = self._lanes.get(caller)
        if (lane.weight if lane else 0) >= self._capacity - self._weight:
            return False
        if lane is None:
            lane = self._lanes[caller] = _Lane()
            self._order.append(caller)
        lane.waiting.append((weight, work))
        lane.weight += weight
        self._weight += weight
        return True

    def take(self, limit: int) -> list[T]:
        """Take the work that is next, of a weight up to `limit` in all.

        Work that is heavier than that is taken alone, and not twice in a row while something lighter waits at
        the head of another caller's.
        """
        if len(self._order) == 1 and self._weight <= limit:
            return self._take_all()
        if self._order and not self._took_large and self._head(self._order[0]) > limit:
            return [self._take_large()]
        taken = self._take_light(limit)
        if not taken and self._order:
            return [self._take_large()]
        self._took_large = False
        return taken

    def _take_all(self) -> list[T]:
        """Take all that there is of the only caller: what nearly every batch is."""
        lane = self._lanes.pop(self._order.pop())
        self._weight = 0
        self._took_large = False
        return [work for _, work in lane.waiting]

    def _take_light(self, limit: int) -> list[T]:
        """Take one piece of each caller in turn; what does not fit now is first the next time."""
        taken: list[T] = []
        passed: list[Hashable] = []
        while self._order and limit > 0:
            caller = self._order.popleft()
            weight = self._head(caller)
            if weight > limit:
                passed.append(caller)
                continue
            taken.append(self._pop(caller))
            limit -= weight
        self._order.extendleft(reversed(passed))
        return taken

    def _take_large(self) -> T:
        self._took_large = True
        return self._pop(self._order.popleft())

    def _head(self, caller: Hashable) -> int:
        return self._lanes[caller].waiting[0][0]

    def _pop(self, caller: Hashable) -> T:
        """Take the first piece of a caller who is out of the order; one with more goes to its end."""
        lane = self._lanes[caller]
        weight, work = lane.waiting.popleft()
        lane.weight -= weight
        self._weight -= weight
        if lane.waiting:
            self._order.append(caller)
        else:
            del self._lanes[caller]
        return work
