"""Safe display of external text: cut to a length, with unprintable characters escaped.

A control character can move a terminal's cursor, set its title, or send input in the reader's name (ECMA-48).
A direction mark shows letters in another order. These functions keep both from reaching a terminal.
"""

import hashlib
import json
from typing import Any

MAX_SHOWN_LENGTH = 200
"""Maximum number of characters shown of a path, a name or a library's error."""


def cut(text: str, longest: int = MAX_SHOWN_LENGTH) -> str:
    """Return the text, or its beginning with an ellipsis: at most `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def abridge(text: str, longest: int, max_bytes: int) -> str:
    """Return the text, or its beginning with an ellipsis and the end of its SHA-256.

    The result has at most `longest` characters, and at most `max_bytes` bytes as JSON in ASCII. The hash
    tells apart texts with the same beginning.
    """
    if len(text) <= longest and len(json.dumps(text)) <= max_bytes:
        return text
    end = "…" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[-16:]
    room = max_bytes - len(json.dumps(end))
    kept = text[: longest - len(end)]
    while (size := len(json.dumps(kept))) > room:
        kept = kept[: len(kept) * room // size]
    return kept + end


def escape(text: str) -> str:
    r"""Return the text with unprintable characters escaped as in JSON: `\u001b`.

    Escaping JSON on one line keeps its value: unprintable characters occur only inside its strings.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def shown(text: str, longest: int = MAX_SHOWN_LENGTH) -> str:
    """Return the text, cut and escaped: at most `longest` characters, all printable."""
    return cut(escape(cut(text, longest)), longest)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural must end in s: `1 user`, `1,200 users`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def json_line(value: Any) -> str:
    """Return the value as one line of JSON that is safe to print on a terminal."""
    return escape(json.dumps(value, ensure_ascii=False))
