"""Back-off: how long to wait before a failed attempt to reach an external system is repeated."""

import random

MAX_DOUBLINGS = 30
"""Maximum number of times that a pause is doubled. It keeps the power within the range of a float."""


def pause_after(failures: int, first: float, longest: float) -> float:
    """Return the pause in seconds after a number of consecutive failures.

    It is 0 without a failure and `first` after one. Each further failure doubles it, up to `longest`.
    """
    if failures < 1:
        return 0.0
    return min(first * 2.0 ** min(failures - 1, MAX_DOUBLINGS), longest)


def spread(pause: float) -> float:
    """Return a random part of a pause, at least half, so that processes that failed together spread out."""
    return random.uniform(pause / 2, pause)  # noqa: S311 - it keeps no secret
