"""Shorter names for the variables and parameters of a minified script.

It renames a name everywhere or nowhere, so the scopes don't matter. A name stays if it is also that of a
property, a method or a global object anywhere in the script.
"""

import re
from collections import Counter
from collections.abc import Iterable

_TOKEN = re.compile(
    r"""(?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    |(?P<pattern>(?<=[(,=:\[!&|?{};+>])/(?:\\.|\[(?:\\.|[^\]])*\]|[^/\\\n\[])+/)
    |(?P<name>[.\#]?[A-Za-z_$][\w$]*)|\.\.\.|[`\\]|[\d.]+\w*|\s+|.""",
    re.VERBOSE,
)
_DECLARED = re.compile(
    r"(?:\b(?:let|const) |\((?:let|const) |catch\()(\w+)|(?:\(|,|\bof )(\w+)(?==>)|\(([\w,.]+)\)=>"
    r"|(?<!\bif)(?<!\bfor)(?<!\bwhile)(?<!\bswitch)\(([\w,.]+)\)\{"
)
_WORDS = (
    "all atob caches close closed confirm console crypto document event fetch find focus frames "
    "history isNaN keys length location name navigator open origin parent performance print "
    "queueMicrotask screen scroll self status stop text top undefined window arguments async await "
    "of get set static this super null true false "
)
_KEPT = frozenset(_WORDS.split())
_BEFORE_METHOD = frozenset(("get", "set", "static", "async", "function", "class"))
_BEFORE_MEMBER = frozenset("{,;}")
_AFTER_MEMBER = frozenset(",}=:(;")
_OPENING = {"(": ")", "[": "]", "{": "}"}


_REST_OF_TEMPLATE = re.compile(r"(?:\\.|\$(?!\{)|[^`\\$])*(`|\$\{)", re.DOTALL)
_EXPORTED = re.compile(r"\bexport (?:async |let |const |function |class )+(\w+)")
_WORD = re.compile(r"\w+")
_SHORTEST = 3
"""Letters of a name that is worth a shorter one."""


def tokens(script: str) -> list[tuple[str, bool]]:
    """Split a script into its tokens. The second value says whether a token is code, not a text or a pattern.

    No template may stand in a value of another one.
    """
    found: list[tuple[str, bool]] = []
    place = depth = 0
    value_depth: int | None = None
    while one := _TOKEN.match(script, place):
        part, place = one[0], one.end()
        depth += (part == "{") - (part == "}")
        if part == "`" or (part == "}" and depth == value_depth):
            rest = _REST_OF_TEMPLATE.match(script, place)
            text = rest[0] if rest else ""
            place += len(text)
            found.append((part + text, False))
            value_depth = depth if text.endswith("${") else None
            depth += value_depth is not None
        else:
            found.append((part, not (one["text"] or one["pattern"])))
    return found


def rename(script: str, short_names: Iterable[str]) -> str:
    """Return the script with shorter names of its variables and parameters."""
    parts = tokens(script)
    code = [token for token, is_code in parts if is_code and not token.isspace()]
    text = "".join(token if is_code else " " for token, is_code in parts)
    declared = {name for found in _DECLARED.findall(text) for name in _WORD.findall(" ".join(found))}
    kept = _KEPT | _members(code) | set(_EXPORTED.findall(text))
    counted = Counter(token for token in code if token in declared - kept and len(token) >= _SHORTEST)
    taken = {token.lstrip(".#") for token in code}
    short = (name for name in short_names if name not in taken)
    names = dict(zip((name for name, _ in counted.most_common()), short, strict=False))
    return "".join(names.get(token, token) if is_code else token for token, is_code in parts)


def _members(code: list[str]) -> set[str]:
    """Return the names that may be those of properties or methods."""
    found: set[str] = set()
    around: list[str] = []
    for before, token, after in zip(["", *code], code, [*code[1:], ""], strict=False):
        if token in _OPENING:
            around.append(token)
        elif token in _OPENING.values() and around:
            around.pop()
        elif token[0] in ".#":
            found.add(token[1:])
        elif before in _BEFORE_METHOD or (
            around[-1:] == ["{"] and before in _BEFORE_MEMBER and after in _AFTER_MEMBER
        ):
            found.add(token)
    return found
