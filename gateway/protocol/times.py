"""Times: integers in milliseconds since 1970, and their text for clients."""

import time
from datetime import date, datetime, timedelta
from functools import lru_cache


def now_ms() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=1024)
def timestamp(milliseconds: int) -> str:
    """Return a time in the API's format: RFC 3339, in UTC, with milliseconds.

    Cached, because the recipients of a notification share its time.
    """
    clock = milliseconds % _DAY
    return (
        f"{_date(milliseconds // _DAY)}T{clock // 3_600_000:02d}:{clock // 60_000 % 60:02d}"
        f":{clock // 1000 % 60:02d}.{clock % 1000:03d}Z"
    )


_DAY = 24 * 60 * 60 * 1000


@lru_cache(maxsize=1024)
def _date(days: int) -> str:
    """Return the date so many days after 1970-01-01. Formatting it takes longer than the rest of a time."""
    return (date(1970, 1, 1) + timedelta(days)).isoformat()


def parse_time(text: str) -> int:
    """Return the milliseconds of a time in the API's format."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def encode_time(milliseconds: int | None) -> str:
    """Return a time as a JSON string, or `null`."""
    return "null" if milliseconds is None else f'"{timestamp(milliseconds)}"'
