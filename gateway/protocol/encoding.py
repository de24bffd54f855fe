"""The encoding of responses and messages: compact JSON."""

import json
from json.encoder import encode_basestring
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


encode_text = encode_basestring
"""Returns a text as `dumps` does, in a third of its time."""


def quoted(text: str | None) -> str:
    """Return a text, or None, as `dumps` does."""
    return "null" if text is None else encode_text(text)


def dumps(value: Any) -> str:
    """Return compact JSON, with non-ASCII characters as they are.

    Raises ValueError for NaN and infinity, which JSON doesn't have.
    """
    return _ENCODER.encode(value)
