"""Times: integers in milliseconds since 1970, and their text for clients."""

import time
from datetime import UTC, datetime
from functools import lru_cache


def now_ms() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def timestamp(milliseconds: int) -> str:
    """Return a time in the API's format: RFC 3339, in UTC, with milliseconds."""
    return f"{_to_seconds(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _to_seconds(seconds: int) -> str:
    """Return the timestamp down to the second, which is cached: times within one second share it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_time(text: str) -> int:
    """Return the milliseconds of a time in the API's format."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def encode_time(milliseconds: int | None) -> str:
    """Return a time as a JSON string, or `null`."""
    return "null" if milliseconds is None else f'"{timestamp(milliseconds)}"'
