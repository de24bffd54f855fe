"""The encoding of responses and messages: compact JSON."""

import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> str:
    """Return compact JSON, with non-ASCII characters as they are.

    Raises ValueError for NaN and infinity, which JSON doesn't have.
    """
    return _ENCODER.encode(value)
