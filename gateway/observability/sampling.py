"""A sample of like events: the first of a minute each, then one whenever their number has doubled.

What is left out is counted. So a caller who repeats something does not fill the log with it, and the log
still says how often it was. Nor do many callers: what is told of one counts for the wider groups it is in,
each of which has a limit, and beyond it the line that tells of the doubled number is one of the group.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)

Group: TypeAlias = tuple[K, int]
"""What kind of events belong together, and how many of their lines are told one by one in each window."""

FIRST = 20
"""How many like events are told one by one in each window."""

WINDOW = 60.0
"""How long a window is, in seconds, from its first event on."""

MAX_KINDS = 10_000
"""How many kinds of events are counted at once; for one more a window that began first is closed."""


@dataclass(slots=True)
class _Window(Generic[K]):
    """What came of a group since `began`, and how much of it is untold; `wider` are the groups it is in."""

    began: float
    wider: Sequence[Group[K]]
    number: int = 0
    untold: int = 0

    def count(self, events: int, first: int) -> int:
        """Count a line about so many events, and return how many it is to stand for; 0 leaves it out."""
        self.number += 1
        self.untold += events
        if self.number > first and not _is_told(self.number, first):
            return 0
        stands_for, self.untold = self.untold, 0
        return stands_for


class Sampler(Generic[K]):
    """Counts events by kind. `rest` is told of a kind how many of its events have no line of their own."""

    def __init__(self, rest: Callable[[K, int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = rest
        self._clock = clock
        self._windows: dict[Group[K], _Window[K]] = {}

    def take(self, kind: K, wider: Sequence[Group[K]] = ()) -> int:
        """Count an event, and return how many the line about it stands for: itself, none, or several.

        `wider` are the groups that the kind is in, the narrowest first.
        """
        now = self._clock()
        self._close(self._over(now), now)
        events = self._window((kind, FIRST), wider, now).count(1, FIRST)
        return self._pass(kind, events, wider, now) if events else 0

    def tell_rest(self, *, everything: bool = False) -> None:
        """Tell what is untold of the windows that are over, or of `everything`."""
        now = self._clock()
        self._close(self._over(now), now)
        while everything and self._windows:
            self._close(self._windows, now)

    def _pass(self, kind: K, events: int, wider: Sequence[Group[K]], now: float) -> int:
        """Return how many events a line of this kind stands for; 0 where it has none, or one of its group."""
        teller = kind
        for place, group in enumerate(wider, 1):
            reported = self._window(group, wider[place:], now).count(events, group[1])
            if not reported:
                return 0
            if reported > events:
                teller, events = group[0], reported
        if teller is kind:
            return events
        self._rest(teller, events)
        return 0

    def _window(self, group: Group[K], wider: Sequence[Group[K]], now: float) -> _Window[K]:
        window = self._windows.get(group)
        if window is None:
            if len(self._windows) >= MAX_KINDS:
                self._close([self._oldest()], now)
            window = self._windows[group] = _Window(now, wider)
        return window

    def _oldest(self) -> Group[K]:
        """Return the group whose window began first, but none of the widest: those bound all others."""
        narrow = (group for group, window in self._windows.items() if window.wider)
        return next(narrow, None) or next(iter(self._windows))

    def _over(self, now: float) -> Iterator[Group[K]]:
        """Yield the groups whose windows are over: they stand in the order in which these began."""
        for group, window in self._windows.items():
            if now - window.began < WINDOW:
                return
            yield group

    def _close(self, groups: Iterable[Group[K]], now: float) -> None:
        for group in list(groups):
            window = self._windows.pop(group, None)
            if window and window.untold:
                events = self._pass(group[0], window.untold, window.wider, now)
                if events:
                    self._rest(group[0], events)


def _is_told(number: int, first: int) -> bool:
    """Whether a line tells of the event with this number: the first ones doubled, and doubled again."""
    times, rest = divmod(number, first)
    return rest == 0 and times & (times - 1) == 0
