"""The messages for values that break a rule: in the gateway's words, not a library's, without the value."""

import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from gateway.settings.durations import with_unit

MAX_NAME_LENGTH = 40
"""Maximum length of a name that is compared with the known ones, in characters: it takes quadratic time."""

PATTERNS: dict[str, str] = {}
"""The rule of each pattern in words, as registered with `in_words`."""

_OTHERWISE = "it has the wrong type or form"


def in_words(words: str, pattern: str) -> str:
    """Register the words for a pattern, as they follow "it must", and return the pattern."""
    PATTERNS[pattern] = words
    return pattern


def nearest(name: str, known: Collection[str], likeness: float = 0.6) -> str | None:
    """Return the most similar known name, or None if no name is similar enough.

    `likeness` is the required similarity, from 0 to 1. Case is ignored.
    """
    if len(name) > MAX_NAME_LENGTH:
        return None
    alike = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), alike, 1, likeness)
    return alike[near[0]] if near else None


def rule(error: Mapping[str, Any]) -> str:
    """Return the rule that a pydantic error reports, in the gateway's words."""
    say = _RULES.get(error["type"])
    if say is None:
        return _OTHERWISE
    context = error.get("ctx") or {}
    return f"{say(context)}{_hint(error.get('input'), context.get('expected'))}"


def _hint(given: object, expected: object) -> str:
    """Return a suggestion for the expected value that is most similar to the given one, or ""."""
    if not (isinstance(given, str) and isinstance(expected, str)):
        return ""
    near = nearest(given, _QUOTED.findall(expected))
    return "" if near is None else f": did you mean '{near}'?"


_QUOTED = re.compile("'([^']*)'")
"""One quoted value in pydantic's list of expected ones: `'low', 'normal' or 'high'`."""


def unknown_member(name: str, known: Collection[str], *, kind: str = "member") -> str:
    """Return the message for a member, or another `kind` of name, that is not among the `known` ones."""
    near = nearest(name, known, _MIN_LIKENESS)
    if near is not None and abs(len(near) - len(name)) > 1:
        near = nearest(name, [near], _MIN_LIKENESS_OF_OTHER_LENGTH)
    if near is not None:
        return f"there is no such {kind}: did you mean {near}?"
    if known:
        return f"there is no such {kind}, only {', '.join(sorted(known))}"
    return f"there is no such {kind}: leave it out"


_MIN_LIKENESS, _MIN_LIKENESS_OF_OTHER_LENGTH = 0.65, 0.8
"""How similar a member must be: `tll` probably means `ttl`, but neither `ttl` nor `state` means `title`."""


def first_rule(error: ValidationError, members: Collection[str]) -> str:
    """Return the rule for the first invalid setting, with its name: one line."""
    # An unknown member first: it may be a required one, misspelt, and its name says more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    message = member_rule(first, members)
    if not first["loc"]:  # a rule for several settings names them itself
        return message
    name, *inner = map(str, first["loc"])
    where = f"{'.'.join(inner)}: " if inner else ""
    return f"GATEWAY_{name.upper()}: {where}{message}"


def member_rule(error: Mapping[str, Any], members: Collection[str]) -> str:
    """Return the rule that a pydantic error reports, of a member or setting where `members` are known."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return unknown_member(name, members)
    return with_unit(name, rule(error))


def _fixed(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _: words


def _counted(words: str, name: str, one: str, many: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda context: f"it must have {words} {context[name]:,} {one if context[name] == 1 else many}"


def _bounded(words: str, name: str) -> Callable[[Mapping[str, Any]], str]:
    def say(context: Mapping[str, Any]) -> str:
        bound = context[name]
        return f"it must be {words} {f'{bound:,}' if isinstance(bound, int | float) else bound}"

    return say


def _matching(context: Mapping[str, Any]) -> str:
    words = PATTERNS.get(context["pattern"])
    return _OTHERWISE if words is None else f"it must {words}"


_OBJECT = _fixed("it must be a JSON object")
_WHOLE = _fixed("it must be a whole number")
_NUMBER = _fixed("it must be a number")
_TRUTH = _fixed("it must be true or false")
_TEXT = _fixed("it must be a string")

_RULES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": _fixed("it is required"),
    "extra_forbidden": _fixed("there is no such member: leave it out"),
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "list_type": _fixed("it must be a list"),
    "tuple_type": _fixed("it must be a list"),
    "json_invalid": _fixed("it is not JSON"),
    "json_type": _fixed("it is not JSON"),
    "string_type": _TEXT,
    "string_unicode": _fixed("it must be text without halves of surrogate pairs"),
    "string_too_short": _counted("at least", "min_length", "character", "characters"),
    "string_too_long": _counted("at most", "max_length", "character", "characters"),
    "too_short": _counted("at least", "min_length", "entry", "entries"),
    "too_long": _counted("at most", "max_length", "entry", "entries"),
    "string_pattern_mismatch": _matching,
    "literal_error": _bounded("one of", "expected"),
    "enum": _bounded("one of", "expected"),
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _fixed("it must be a finite number"),
    "greater_than_equal": _bounded("at least", "ge"),
    "greater_than": _bounded("more than", "gt"),
    "less_than_equal": _bounded("at most", "le"),
    "less_than": _bounded("less than", "lt"),
    "url_type": _fixed("it must be a URL"),
    "url_parsing": _fixed("it must be a URL such as https://example.com/"),
    "value_error": lambda context: str(context["error"]),
}
