"""The body of a batch, read item by item: a JSON array, or a notification on each line.

A body of 8 MiB parsed at once holds the event loop for as long as that takes, and may become four million
objects. So only the text of one item is cut out at a time, and no item may be longer than the body of a post
on its own; whoever reads them gives others their turn in between.
"""

import re
from collections.abc import Generator, Iterator
from json import JSONDecodeError, JSONDecoder

from gateway.errors import Invalid, PayloadTooLarge

MAX_ITEM = 256 * 1024
"""How many characters one item may have: as many as the body of a post on its own."""

_LONGEST_WORD = len("-Infinity")
_WINDOW = MAX_ITEM + 64 * 1024

_SPACE = re.compile(r"[ \t\n\r]*+")
_LINE = re.compile(rb"[ \t\n\r]*+([^\n]*+)")

# It finds where a value ends. What the value is, and whether it is strict JSON, its reader sees: so numbers
# are not converted here, which takes quadratic time for long ones.
_find_end = JSONDecoder(parse_int=len, parse_float=len, parse_constant=len).raw_decode


def split_lines(body: bytes) -> Iterator[bytes]:
    """Yield each line that is not blank. Raises `PayloadTooLarge` at the first that is too long."""
    at = index = 0
    while (line := _LINE.match(body, at)) and line[1]:
        if len(line[1]) > MAX_ITEM:
            raise _too_long(index)
        yield line[1]
        at, index = line.end(), index + 1


def split_array(body: bytes) -> Iterator[str]:
    """Yield the text of each value of a JSON array, which may still break the rules of JSON within.

    Raises `Invalid` where the array is none, and `PayloadTooLarge` at the first value that is too long.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Invalid.field("body", "it is not UTF-8") from None
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise Invalid.field("body", "it is not a JSON array")
    at = _skip(text, at + 1)
    values = _Values(text)
    if text[at : at + 1] != "]":
        at = yield from values.split(at)
    if _skip(text, at + 1) != len(text):
        raise Invalid.field("body", "it is not JSON: something follows the array")


class _Values:
    """The values of an array, looked for in a window: none is parsed far beyond its limit."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._window = text[:_WINDOW]
        self._base = 0

    def split(self, at: int) -> Generator[str, None, int]:
        """Yield the values from `at` on, and return where the array's bracket is."""
        index = 0
        while True:
            end = self._end(at, index)
            yield self._text[at:end]
            at = _skip(self._text, end)
            mark = self._text[at : at + 1]
            if mark == "]":
                return at
            if mark != ",":
                raise Invalid.field("body", f"it is not JSON: no comma or bracket follows item {index}")
            at, index = _skip(self._text, at + 1), index + 1

    def _end(self, at: int, index: int) -> int:
        window_ends = self._base + len(self._window)
        # Not at the end of the text: each value would have the rest copied for it.
        if at + MAX_ITEM >= window_ends and window_ends < len(self._text):
            self._base, self._window = at, self._text[at : at + _WINDOW]
        start = at - self._base
        try:
            end = _find_end(self._window, start)[1]
        except (JSONDecodeError, RecursionError) as error:
            if self._may_go_on(error):
                raise _too_long(index) from None
            raise Invalid.field(str(index), "it is not JSON") from None
        if end - start > MAX_ITEM:
            raise _too_long(index)
        return self._base + end

    def _may_go_on(self, error: JSONDecodeError | RecursionError) -> bool:
        """Whether it is the end of the window that breaks the value."""
        if isinstance(error, RecursionError) or self._base + len(self._window) == len(self._text):
            return False
        return error.msg.startswith("Unterminated") or error.pos > len(self._window) - _LONGEST_WORD


def _skip(text: str, at: int) -> int:
    """Return where the white space that begins at `at` ends."""
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _too_long(index: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"Item {index} of the batch is over {MAX_ITEM // 1024} KiB, which no notification may be."
    )
