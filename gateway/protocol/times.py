"""Times: integers in milliseconds since 1970, and their text for clients."""

import math
import re
import time
from datetime import date, datetime, timedelta
from functools import lru_cache

MINUTE_MS = 60_000
MAX_AHEAD_MS = 366 * 24 * 60 * MINUTE_MS
"""How far ahead a client may set a time."""

LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999. The API's format can't write a later time."""


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


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_MOMENT_RULE = "it must be a time with its zone, such as 2026-11-20T09:30:00Z"
_NO_SUCH = "there is no such day or time"
_MAX_MOMENT = 40
"""Maximum length of a time from outside, in characters."""


def read_moment(text: object) -> int:
    """Return the milliseconds of a time from outside (RFC 3339). Raises ValueError for any other value."""
    moment = _read(text)
    if not 0 <= moment <= LATEST_MS:
        raise ValueError("it must be a time between 1970 and 9999")
    return moment


def read_deliver_at(text: object, now: int) -> int:
    """Return the milliseconds of a time to deliver at. Any time in the past will do. Raises ValueError."""
    moment = _read(text)
    if moment > now + MAX_AHEAD_MS:
        raise ValueError("it must be at most 366 days ahead")
    return max(moment, 0)


def _read(text: object) -> int:
    if not isinstance(text, str) or len(text) > _MAX_MOMENT or _MOMENT.fullmatch(text) is None:
        raise ValueError(_MOMENT_RULE)
    if not _has_hours(text):
        raise ValueError(_NO_SUCH)
    try:
        return math.floor(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(_NO_SUCH) from None


def _has_hours(text: str) -> bool:
    """Whether the hour of a moment and its offset exist.

    `fromisoformat` knows the rest. It takes the offset +14:60 and, in Python 3.14, the hour 24.
    """
    return text[11:13] < "24" and (text[-1] in "Zz" or (text[-5:-3] < "24" and text[-2:] < "60"))


def read_snooze(text: object, now: int) -> int:
    """Return the milliseconds of a time to snooze until. Raises ValueError."""
    until = _read(text)
    if not MINUTE_MS <= until - now <= MAX_AHEAD_MS:
        raise ValueError("it must be 1 minute to 366 days ahead")
    return until


def encode_time(milliseconds: int | None) -> str:
    """Return a time as a JSON string, or `null`."""
    return "null" if milliseconds is None else f'"{timestamp(milliseconds)}"'
