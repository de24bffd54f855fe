"""A sample of like events: the first of a minute each, then one whenever their number has doubled.

What is left out is counted. So a caller who repeats something does not fill the log with it, and the log
still says how often it was.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST = 20
"""How many like events are told one by one in each window."""

WINDOW = 60.0
"""How long a window is, in seconds, from its first event on."""

MAX_KINDS = 10_000
"""How many kinds of events are counted at once; for one more the window that began first is closed."""


@dataclass(slots=True)
class _Window:
    """What came of one kind since `began`, and how much of it was not told."""

    began: float
    number: int = 0
    untold: int = 0


class Sampler(Generic[K]):
    """Counts events by kind. `rest` is told of a kind how many events of a window that is over are untold."""

    def __init__(self, rest: Callable[[K, int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = rest
        self._clock = clock
        self._windows: dict[K, _Window] = {}

    def take(self, kind: K) -> int:
        """Count an event, and return how many the line about it stands for: itself, none, or several."""
        now = self._clock()
        self._close(self._over(now))
        window = self._windows.get(kind) or self._open(kind, now)
        window.number += 1
        window.untold += 1
        if window.number > FIRST and not _is_told(window.number):
            return 0
        stands_for, window.untold = window.untold, 0
        return stands_for

    def tell_rest(self, *, everything: bool = False) -> None:
        """Tell what is untold of the windows that are over, or of `everything`."""
        self._close(self._windows if everything else self._over(self._clock()))

    def _open(self, kind: K, now: float) -> _Window:
        if len(self._windows) >= MAX_KINDS:
            self._close([next(iter(self._windows))])
        window = self._windows[kind] = _Window(now)
        return window

    def _over(self, now: float) -> Iterator[K]:
        """Yield the kinds whose windows are over: they stand in the order in which these began."""
        for kind, window in self._windows.items():
            if now - window.began < WINDOW:
                return
            yield kind

    def _close(self, kinds: Iterable[K]) -> None:
        for kind in list(kinds):
            window = self._windows.pop(kind)
            if window.untold:
                self._rest(kind, window.untold)


def _is_told(number: int) -> bool:
    """Whether a line tells of the event with this number: the first ones doubled, and doubled again."""
    times, rest = divmod(number, FIRST)
    return rest == 0 and times & (times - 1) == 0
