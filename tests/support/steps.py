"""The steps that a pattern takes: `re` does not say how many, so a matcher counts that goes its ways."""

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_parser: Any = importlib.import_module("re._parser")
_codes: Any = importlib.import_module("re._constants")

_REPEATS = {_codes.MAX_REPEAT, _codes.MIN_REPEAT, _codes.POSSESSIVE_REPEAT}
_CHARACTERS = {_codes.LITERAL, _codes.NOT_LITERAL, _codes.ANY, _codes.IN}


def _is_word(one: str) -> bool:
    return one.isalnum() or one == "_"


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    _codes.CATEGORY_DIGIT: str.isdecimal,
    _codes.CATEGORY_SPACE: str.isspace,
    _codes.CATEGORY_WORD: _is_word,
    _codes.CATEGORY_NOT_DIGIT: lambda one: not one.isdecimal(),
    _codes.CATEGORY_NOT_SPACE: lambda one: not one.isspace(),
    _codes.CATEGORY_NOT_WORD: lambda one: not _is_word(one),
}


class Steps:
    """Counts the steps of a pattern: each character that is looked at, and each way that is tried.

    It backtracks as `re` does. What `re` does faster, such as looking for a literal first, it does not know:
    it counts at least as many steps.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        self._flags = pattern.flags
        self._tree = _parser.parse(pattern.pattern, pattern.flags)
        self._known: dict[tuple[Any, Any], dict[str, bool]] = {}
        self._text = ""
        self._count = 0

    def count(self, text: str, *, anywhere: bool) -> int:
        """Return the steps of `match`, or those of `sub`, which looks for every match `anywhere`."""
        self._text, self._count = text, 0
        position = 0
        while position <= len(text):
            end = next(self._sequence(self._tree, 0, position), None)
            if not anywhere:
                break
            position = position + 1 if end is None or end == position else end
        return self._count

    def _sequence(self, nodes: Any, index: int, position: int) -> Iterator[int]:
        if index == len(nodes):
            yield position
            return
        code, value = nodes[index]
        for end in self._node(code, value, position):
            yield from self._sequence(nodes, index + 1, end)

    def _node(self, code: Any, value: Any, position: int) -> Iterator[int]:
        self._count += 1
        if code in _CHARACTERS:
            if position < len(self._text) and self._is(code, value, self._text[position]):
                yield position + 1
        elif code in _REPEATS:
            yield from self._repeat(code, value, position)
        elif code is _codes.SUBPATTERN:
            yield from self._sequence(value[3], 0, position)
        elif code is _codes.BRANCH:
            for way in value[1]:
                yield from self._sequence(way, 0, position)
        elif self._holds(code, value, position):
            yield position

    def _holds(self, code: Any, value: Any, position: int) -> bool:
        """Whether a condition on a position is met."""
        if code is _codes.AT:
            return self._at(value, position)
        if code not in {_codes.ASSERT, _codes.ASSERT_NOT}:
            raise NotImplementedError(code)
        direction, nodes = value
        start = position if direction > 0 else position - nodes.getwidth()[0]
        there = start >= 0 and next(self._sequence(nodes, 0, start), None) is not None
        return there == (code is _codes.ASSERT)

    def _repeat(self, code: Any, value: Any, position: int) -> Iterator[int]:
        """Yield where so many turns can end. Within a turn the patterns of the gateway have one way only."""
        least, most, nodes = value
        most = len(self._text) + 1 if most is _codes.MAXREPEAT else most
        if code is _codes.MIN_REPEAT:
            yield from self._turns(nodes, least, most, position)
            return
        ends = list(self._turns(nodes, least, most, position))
        for end in ends[-1:] if code is _codes.POSSESSIVE_REPEAT else reversed(ends):
            self._count += 1
            yield end

    def _turns(self, nodes: Any, least: int, most: int, position: int) -> Iterator[int]:
        """Yield where the turns end, from the first one that is enough on."""
        if len(nodes) == 1 and nodes[0][0] in _CHARACTERS:
            code, value = nodes[0]
            yield from self._run(code, value, least, most, position)
            return
        for turn in range(most + 1):
            if turn >= least:
                yield position
            end = next(self._sequence(nodes, 0, position), None) if turn < most else None
            if end is None or end == position:
                return
            position = end

    def _run(self, code: Any, value: Any, least: int, most: int, position: int) -> Iterator[int]:
        """Do the same for a single character, which is nearly always what repeats."""
        text, known, end = self._text, self._known_of(code, value), position
        while True:
            if end - position >= least:
                yield end
            if end - position == most or end == len(text):
                return
            self._count += 1
            one = text[end]
            if one not in known:
                known[one] = self._decide(code, value, one)
            if not known[one]:
                return
            end += 1

    def _at(self, where: Any, position: int) -> bool:
        text = self._text
        if where in {_codes.AT_BOUNDARY, _codes.AT_NON_BOUNDARY}:
            before, after = text[position - 1 : position], text[position : position + 1]
            return (_is_word(before) != _is_word(after)) == (where is _codes.AT_BOUNDARY)
        if where in {_codes.AT_BEGINNING, _codes.AT_BEGINNING_STRING}:
            lines = self._flags & re.MULTILINE
            return position == 0 or bool(lines and text[position - 1] == "\n")
        return text[position:] in {"", "\n"} or bool(self._flags & re.MULTILINE and text[position] == "\n")

    def _is(self, code: Any, value: Any, one: str) -> bool:
        known = self._known_of(code, value)
        if one not in known:
            known[one] = self._decide(code, value, one)
        return known[one]

    def _known_of(self, code: Any, value: Any) -> dict[str, bool]:
        """Return which characters are known to be of this class, or not to be."""
        return self._known.setdefault((code, id(value) if code is _codes.IN else value), {})

    def _decide(self, code: Any, value: Any, one: str) -> bool:
        if code is _codes.ANY:
            return one != "\n" or bool(self._flags & re.DOTALL)
        both = {one.lower(), one.upper()} if self._flags & re.IGNORECASE else {one}
        if code is _codes.IN:
            return any(_is_in(value, each) for each in both)
        return any(ord(each) == value for each in both) == (code is _codes.LITERAL)


def _is_in(items: Any, one: str) -> bool:
    negated = items[0][0] is _codes.NEGATE
    found = any(_is_item(code, value, one) for code, value in items)
    return found != negated


def _is_item(code: Any, value: Any, one: str) -> bool:
    if code is _codes.LITERAL:
        return bool(ord(one) == value)
    if code is _codes.RANGE:
        return bool(value[0] <= ord(one) <= value[1])
    return code is _codes.CATEGORY and _CATEGORIES[value](one)


def texts_of(pattern: re.Pattern[Any]) -> list[str]:
    """Return what the pattern is made of: its words, and a character of each of its classes."""
    return list(dict.fromkeys(text for text in _texts(_parser.parse(pattern.pattern, pattern.flags)) if text))


def _texts(nodes: Any) -> Iterator[str]:
    word = ""
    for code, value in nodes:
        if code is _codes.LITERAL:
            word += chr(value)
            continue
        yield word
        word = ""
        if code is _codes.IN:
            inside = [one for one in _SAMPLES if _is_in(value, one)]
            # One that is a letter, where there is one, and one that ends a word.
            yield from (inside[0], *[one for one in inside if not _is_word(one)][:1])
        for inner in _inner(code, value):
            yield from _texts(inner)
    yield word


_SAMPLES = "a1._-/=:\"'\\ \n\t@[x0b" + "".join(map(chr, range(0xFF))) + "\ud800"


def _inner(code: Any, value: Any) -> Iterable[Any]:
    if code in _REPEATS:
        return [value[2]]
    if code is _codes.SUBPATTERN:
        return [value[3]]
    if code is _codes.BRANCH:
        return list(value[1])
    if code in {_codes.ASSERT, _codes.ASSERT_NOT}:
        return [value[1]]
    return []
