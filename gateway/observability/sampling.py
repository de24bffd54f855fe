"""Samples of similar events: a line for each of the first in a minute, then one whenever the number doubles.

The events without a line are counted. A caller that repeats an event can't fill the log, and the log still
says how often it happened. Neither can many callers together: each line also counts in the wider groups of
its kind. Each group has a limit, and beyond it the lines at a doubled number are about the whole group.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)

Group: TypeAlias = tuple[K, int]
"""The kind of the events of a group, and its maximum number of individual lines in each window."""

FIRST = 20
"""How many events of a kind get an individual line in each window."""

WINDOW_SECONDS = 60.0
"""How long a window lasts. It begins with its first event."""

MAX_KINDS = 10_000
"""Maximum number of open windows. To open another one, the oldest is closed."""


@dataclass(slots=True)
class _Window(Generic[K]):
    """The lines and the unreported events of a group since `began`. `wider` are its wider groups."""

    began: float
    wider: Sequence[Group[K]]
    number: int = 0
    unreported: int = 0

    def count(self, events: int, first: int) -> int:
        """Count a line about `events`. Return how many events it stands for, or 0 to leave it out."""
        self.number += 1
        self.unreported += events
        if self.number > first and not _has_line(self.number, first):
            return 0
        stands_for, self.unreported = self.unreported, 0
        return stands_for


class Sampler(Generic[K]):
    """Counts events by kind. It calls `rest` with a kind and the number of its events without a line."""

    def __init__(self, rest: Callable[[K, int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = rest
        self._clock = clock
        self._windows: dict[Group[K], _Window[K]] = {}

    def take(self, kind: K, wider: Sequence[Group[K]] = (), events: int = 1) -> int:
        """Count a line about `events`, and return how many events it stands for, or 0 to leave it out.

        `wider` are the groups of the kind, the narrowest first.
        """
        now = self._clock()
        self._close(self._over(now), now)
        events = self._window((kind, FIRST), wider, now).count(events, FIRST)
        return self._pass(kind, events, wider, now) if events else 0

    def tell_rest(self, *, everything: bool = False) -> None:
        """Report the unreported events of windows that are over, or of all windows (`everything`)."""
        now = self._clock()
        self._close(self._over(now), now)
        while everything and self._windows:
            self._close(self._windows, now)

    def _pass(self, kind: K, events: int, wider: Sequence[Group[K]], now: float) -> int:
        """Return how many events a line of this kind stands for, or 0.

        It is 0 if the events get no line, or only one that is about a wider group. `rest` writes that line.
        """
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
        """Return the group whose window began first, sparing the widest groups, which limit all others."""
        narrow = (group for group, window in self._windows.items() if window.wider)
        return next(narrow, None) or next(iter(self._windows))

    def _over(self, now: float) -> Iterator[Group[K]]:
        """Yield the groups whose windows are over. `_windows` is in the order in which they began."""
        for group, window in self._windows.items():
            if now - window.began < WINDOW_SECONDS:
                return
            yield group

    def _close(self, groups: Iterable[Group[K]], now: float) -> None:
        for group in list(groups):
            window = self._windows.pop(group, None)
            if window and window.unreported:
                events = self._pass(group[0], window.unreported, window.wider, now)
                if events:
                    self._rest(group[0], events)


def _has_line(number: int, first: int) -> bool:
    """Whether the event with this number gets a line: `first` doubled, doubled again, and so on."""
    times, rest = divmod(number, first)
    return rest == 0 and times & (times - 1) == 0
