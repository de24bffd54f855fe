"""The encoding of what clients are given: JSON in UTF-8, without spaces."""

import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> str:
    """Return compact JSON in UTF-8. Raises ValueError for NaN and infinity, which JSON does not have."""
    return _ENCODER.encode(value)
