"""The body of a batch, split item by item: a JSON array, or one notification per line.

Parsing a body of 8 MiB at once would block the event loop, and could create four million objects. So the
functions here yield the text of one item at a time, which may be no longer than the body of a single post.
Their caller gives other callers a turn between items.
"""

import re
from collections.abc import Generator, Iterator
from json import JSONDecodeError, JSONDecoder

from gateway.errors import Invalid, PayloadTooLarge

MAX_ITEM = 256 * 1024
"""Maximum number of characters of one item: the limit for the body of a single post."""

_LONGEST_WORD = len("-Infinity")
_WINDOW_CHARACTERS = MAX_ITEM + 64 * 1024

_SPACE = re.compile(r"[ \t\n\r]*+")
_LINE = re.compile(rb"[ \t\n\r]*+([^\n]*+)")

# Finds the end of a value. The reader parses the value, and checks that it is strict JSON. Numbers are not
# converted here, because that takes quadratic time for long ones.
_find_end = JSONDecoder(parse_int=len, parse_float=len, parse_constant=len).raw_decode


_BARE_OBJECT = "send the array itself, such as [{…}, {…}], or objects on lines as application/x-ndjson"


class Position:
    """The position in the body of the item that was yielded last."""

    def __init__(self) -> None:
        self._whole: bytes | str = b""
        self._at = 0

    def begin(self, whole: bytes | str, at: int) -> None:
        """Set the position to an item of `whole` that begins at `at`."""
        self._whole, self._at = whole, at

    def line(self) -> int:
        """Return the line on which the item begins, counted like in an editor: from 1, with empty lines."""
        return _line_of(self._whole, self._at)

    def of(self, line: int, column: int) -> tuple[int, int]:
        """Convert a line and column within the item to those in the body."""
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
    """Yield each line that is not blank. Raises `PayloadTooLarge` at the first line that is too long."""
    place = place or Position()
    at = 0
    while (line := _LINE.match(body, at)) and line[1]:
        place.begin(body, line.start(1))
        if len(line[1]) > MAX_ITEM:
            raise _too_long(f"Line {place.line()}")
        yield line[1]
        at = line.end()


def split_array(body: bytes, place: Position | None = None) -> Iterator[str]:
    """Yield the text of each value of a JSON array. A value may still break the rules of strict JSON.

    Raises `Invalid` if the body is not a JSON array, and `PayloadTooLarge` at the first value over the limit.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Invalid.field("body", "it is not UTF-8") from None
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        bare = f": {_BARE_OBJECT}" if text[at : at + 1] == "{" else ""
        raise Invalid.field("body", f"it is not a JSON array{bare}")
    at = _skip(text, at + 1)
    values = _Values(text, place)
    if text[at : at + 1] != "]":
        at = yield from values.split(at)
    if _skip(text, at + 1) != len(text):
        where = _where(text, _skip(text, at + 1))
        raise Invalid.field("body", f"it is not JSON at {where}: something follows the array")


class _Values:
    """The values of an array, parsed in a moving window: the parser never reads far beyond the limit."""

    def __init__(self, text: str, place: Position | None = None) -> None:
        self._text = text
        self._place = place or Position()
        self._window = text[:_WINDOW_CHARACTERS]
        self._base = 0

    def split(self, at: int) -> Generator[str, None, int]:
        """Yield the values from `at` on, and return the position of the array's closing bracket."""
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
        # The window never moves at the end of the text: that would copy the rest of it for each value.
        if at + MAX_ITEM >= window_ends and window_ends < len(self._text):
            self._base, self._window = at, self._text[at : at + _WINDOW_CHARACTERS]
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
        """Return whether the value only seems broken because the window ends within it."""
        if isinstance(error, RecursionError) or self._base + len(self._window) == len(self._text):
            return False
        return error.msg.startswith("Unterminated") or error.pos > len(self._window) - _LONGEST_WORD


def _skip(text: str, at: int) -> int:
    """Return the position after the white space that begins at `at`."""
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _where(text: str, at: int) -> str:
    return f"line {_line_of(text, at)}, column {_column_of(text, at)}"


def _too_long(which: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"{which} of the batch is over {MAX_ITEM // 1024} KiB: send less in it.")
