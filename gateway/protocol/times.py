"""Times: milliseconds since 1970 in integers, and how clients are told them."""

import time
from datetime import UTC, datetime
from functools import lru_cache


def now_ms() -> int:
    """Return the time."""
    return time.time_ns() // 1_000_000


def timestamp(milliseconds: int) -> str:
    """Return RFC 3339 in UTC with milliseconds, as every time of the API is written."""
    return f"{_to_seconds(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _to_seconds(seconds: int) -> str:
    """Return the part that everything written within one second shares."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def encode_time(milliseconds: int | None) -> str:
    """Return a time as JSON, or null."""
    return "null" if milliseconds is None else f'"{timestamp(milliseconds)}"'
