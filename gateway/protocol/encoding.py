"""The encoding of what clients are given: JSON without spaces, and times."""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any


def timestamp(milliseconds: int) -> str:
    """Return RFC 3339 in UTC with milliseconds, as every time of the API is written."""
    return f"{_to_seconds(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _to_seconds(seconds: int) -> str:
    """Return the part that everything written within one second shares."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> str:
    """Return compact JSON in UTF-8. Raises ValueError for NaN and infinity, which JSON does not have."""
    return _ENCODER.encode(value)


def encode_time(milliseconds: int | None) -> str:
    """Return a time as JSON, or null."""
    return "null" if milliseconds is None else f'"{timestamp(milliseconds)}"'
