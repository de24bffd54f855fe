"""The signals that stop a gateway: which are listened to, and which is one that comes a second time."""

import signal
import time
from collections.abc import Callable

ECHO = 1.0
"""For how long another stop signal is an echo of the first, in seconds.

A supervisor that signals a whole group reaches the gateway itself and a wrapper, such as `uv run`, which
passes the signal on.
"""


class StopSignals:
    """Counts how often one is told to stop. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_at: float | None = None

    def insists(self) -> bool:
        """Count a signal, and return whether it is a second one: somebody who waits no longer."""
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
        return now - self._first_at > ECHO


def is_ignored(sig: signal.Signals) -> bool:
    """Whether whoever started the process wants it to ignore a signal: `nohup`, or a job of a script."""
    return signal.getsignal(sig) is signal.SIG_IGN
