"""Stop signals: detecting repeated ones, and ones that the process must ignore."""

import signal
import time
from collections.abc import Callable

ECHO_SECONDS = 1.0
"""How long a further stop signal counts as an echo of the first, in seconds.

A program that signals a whole process group reaches the gateway twice: directly, and through a wrapper such
as `uv run`, which forwards the signal.
"""


class StopSignals:
    """Tracks the stop signals that a process receives. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_at: float | None = None

    def is_repeated(self) -> bool:
        """Record a stop signal, and return whether it repeats an earlier one, and isn't an echo of it."""
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
        return now - self._first_at > ECHO_SECONDS


def is_ignored(sig: signal.Signals) -> bool:
    """Return whether the process was started to ignore a signal, as by `nohup` or as a job of a script."""
    return signal.getsignal(sig) is signal.SIG_IGN
