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


class Position:
    """Where in the body the item begins that was yielded last."""

    def __init__(self) -> None:
        self._whole: bytes | str = b""
        self._at = 0

    def begin(self, whole: bytes | str, at: int) -> None:
        """Note where an item begins."""
        self._whole, self._at = whole, at

    def line(self) -> int:
        """Return the number of the line on which it begins, as an editor counts: from 1, and empty ones."""
        return _line_of(self._whole, self._at)

    def of(self, line: int, column: int) -> tuple[int, int]:
        """Return the line and the column in the body of a place within the item."""
        if line == 1:
            column += _column_of(self._whole, self._at) - 1
        return self.line() + line - 1, column


def _line_of(whole: bytes | str, at: int) -> int:
    before = whole.count("\n", 0, at) if isinstance(whole, str) else whole.count(b"\n", 0, at)
    return before + 1


def _column_of(whole: bytes | str, at: int) -> int:
    begin = whole.rfind("\n", 0, at) if isinstance(whole, str) else whole.rfind(b"\n", 0, at)
    return at - begin


def split_lines(body: bytes, place: Position | None = None) -> Iterator[bytes]:
    """Yield each line that is not blank. Raises `PayloadTooLarge` at the first that is too long."""
    place = place or Position()
    at = 0
    while (line := _LINE.match(body, at)) and line[1]:
        place.begin(body, line.start(1))
        if len(line[1]) > MAX_ITEM:
            raise _too_long(f"Line {place.line()}")
        yield line[1]
        at = line.end()


def split_array(body: bytes, place: Position | None = None) -> Iterator[str]:
    """Yield the text of each value of a JSON array, which may still break the rules of JSON within.

    Raises `Invalid` where the array is none, and `PayloadTooLarge` at the first value that is too long.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Invalid.field("body", "it is not UTF-8") from None
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        bare = ": send the array itself, such as [{…}, {…}]" if text[at : at + 1] == "{" else ""
        raise Invalid.field("body", f"it is not a JSON array{bare}")
    at = _skip(text, at + 1)
    values = _Values(text, place)
    if text[at : at + 1] != "]":
        at = yield from values.split(at)
    if _skip(text, at + 1) != len(text):
        where = _where(text, _skip(text, at + 1))
        raise Invalid.field("body", f"it is not JSON at {where}: something follows the array")


class _Values:
    """The values of an array, looked for in a window: none is parsed far beyond its limit."""

    def __init__(self, text: str, place: Position | None = None) -> None:
        self._text = text
        self._place = place or Position()
        self._window = text[:_WINDOW]
        self._base = 0

    def split(self, at: int) -> Generator[str, None, int]:
        """Yield the values from `at` on, and return where the array's bracket is."""
        index = 0
        while True:
            end = self._end(at, index)
            self._place.begin(self._text, at)
            yield self._text[at:end]
            at = _skip(self._text, end)
            mark = self._text[at : at + 1]
            if mark == "]":
                return at
            if mark != ",":
                where = _where(self._text, at)
                raise Invalid.field("body", f"it is not JSON at {where}: a comma or ] belongs here")
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
                raise _too_long(f"Item {index}") from None
            where = _where(self._text, self._base + getattr(error, "pos", start))
            raise Invalid.field(str(index), f"it is not JSON at {where}") from None
        if end - start > MAX_ITEM:
            raise _too_long(f"Item {index}")
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


def _where(text: str, at: int) -> str:
    return f"line {_line_of(text, at)}, column {_column_of(text, at)}"


def _too_long(which: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"{which} of the batch is over {MAX_ITEM // 1024} KiB, which is too long.")
