"""Text from outside, ready to be shown: cut to a length, without what a terminal obeys.

A control character moves the cursor, sets the title, or answers for the person who reads (ECMA-48); a mark of
direction shows letters in another order than they have. Neither reaches a terminal from here.
"""

import json
from typing import Any

LONGEST = 200
"""How many characters of a path, a name or a foreign error are shown."""


def cut(text: str, longest: int = LONGEST) -> str:
    """Return the text, or its beginning and an ellipsis: at most `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def escape(text: str) -> str:
    r"""Return the text with all that is not printable written as JSON does: `\u001b`.

    JSON stays the JSON it was: outside of its strings it has spaces at most.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def shown(text: str, longest: int = LONGEST) -> str:
    """Return the text cut and escaped: at most `longest` characters, all of them printable."""
    return cut(escape(cut(text, longest)), longest)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, a noun whose plural ends in s: `1 user`, `1,200 users`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def json_line(value: Any) -> str:
    """Return the value as JSON on one line, which a terminal shows as it is."""
    return escape(json.dumps(value, ensure_ascii=False))
