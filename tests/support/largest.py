"""The largest notification that a service may post, and the longest answer to it."""

from typing import Any

from gateway.api.notification import MAX_ACTIONS, MAX_DATA_BYTES, MAX_URL_CHARACTERS

ESCAPED = "\x01"
"""A character that takes six bytes in JSON. No character takes more, in either encoding."""

URL = "/" + "\U0001f600" * (MAX_URL_CHARACTERS - 1)
"""A URL has printable characters only, of up to four bytes each."""

WHOLE = {"x": "x" * (MAX_DATA_BYTES - 8)}
"""`data` that takes as many bytes as it may. Nothing in JSON takes more."""

FRACTIONS = {"x": [0.5] * ((MAX_DATA_BYTES - 7) // 4)}
"""`data` that takes the most bytes in MessagePack: more than twice as many as in JSON."""

ANSWER = ESCAPED * 1000


def largest(data: dict[str, Any]) -> dict[str, Any]:
    """Return the members of the largest notification with this `data`, besides `to`."""
    return {
        "title": ESCAPED * 200,
        "body": ESCAPED * 4000,
        "category": "c" * 64,
        "priority": "urgent",
        "url": URL,
        "data": data,
        "icon": URL,
        "actions": [
            {
                "id": f"{number}" * 32,
                "label": "x" + ESCAPED * 39,
                "style": "primary",
                "url": URL,
                "reply": True,
            }
            for number in range(MAX_ACTIONS)
        ],
        "expires_at": "9999-12-31T23:59:59.999Z",
    }
