"""Back-off: how long to wait before something outside is tried again that has failed."""

import random

MOST_DOUBLINGS = 30
"""How often a pause is doubled at most, however many failures there have been."""


def pause_after(failures: int, first: float, longest: float) -> float:
    """Return the pause after so many failures in a row, in seconds.

    After none it is 0, after one `first`, and after each further one twice as long, up to `longest`.
    """
    if failures < 1:
        return 0.0
    return min(first * 2.0 ** min(failures - 1, MOST_DOUBLINGS), longest)


def spread(pause: float) -> float:
    """Return a random part of a pause, half or more, so that those who failed together do not meet again."""
    return random.uniform(pause / 2, pause)  # noqa: S311 - it keeps no secret
