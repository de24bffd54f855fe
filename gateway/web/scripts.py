"""The bundler of the SDK: it joins each entry module with its imports into one file, and minifies it.

The sources are ES modules that run unbuilt, and the package for bundlers ships them like that. A page that
loaded them one by one would wait for a chain of requests, and load twice the bytes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from itertools import product
from string import ascii_lowercase

from rjsmin import jsmin

from gateway.web.renaming import rename

_IMPORT = re.compile(r"^import \{[^}]*\} from '\./([\w-]+\.js)';\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def modules(folder: Traversable, entry: str) -> dict[str, str]:
    """Return a module and its imports from the same folder, by file name, each one after its own imports."""
    found: dict[str, str] = {}

    def add(name: str) -> None:
        text = folder.joinpath(name).read_text("utf-8")
        for needed in _IMPORT.findall(text):
            if needed not in found:
                add(needed)
        found[name] = text

    add(entry)
    return found


def joined(folder: Traversable, entry: str) -> str:
    """Join a module and its imports from the same folder into one module.

    All of them share one scope: if two declare the same name at their top level, the browser refuses the
    script. Supports only `import { … } from './….js'`, and `export` before a declaration.
    """
    texts = modules(folder, entry)
    inner = [_EXPORT.sub("", text) for name, text in texts.items() if name != entry]
    return _IMPORT.sub("", "".join([*inner, texts[entry]]))


def bundle(folder: Traversable, entry: str) -> str:
    """Return a module and its imports as one script that is as short as it can be."""
    return rename(compact(joined(folder, entry)), _short_names())


_STYLES = re.compile(r"(?<=sheet\(`)[^`]*(?=`\))")
_SPACE_IN_STYLES = re.compile(r"\s*([{};,>])\s*|(?<=:)\s+")
_LINE_AFTER_BRACE = re.compile(r"(?<=})\n(?=[\w#])")
_PRIVATE_PROPERTY = re.compile(r"--_[\w-]+")
_PRIVATE_USE = re.compile(r"\.#(\w+)")
_PRIVATE_NAME = re.compile(r"#([A-Za-z]\w*)")
_QUOTED_NAME = re.compile(r"['\"`]#(\w+)")
_CONSTANT = re.compile(r"^const ([A-Z][A-Z\d_]+)\b", re.MULTILINE)
_FUNCTION = re.compile(r"^(?:async )?function (\w+)", re.MULTILINE)
_DECLARATION = re.compile(r"(?<![\w.'\"`])const(?=[ \[{])")
_BOOLEAN = re.compile(r"(?<=[=:(?,&|[])(true|false)(?=[,;)}\]:?&|])")
_MENTION = re.compile(r"((?<!\.\.)[.#'\"`]|\b)([A-Za-z]\w*)(\(?)")


def compact(script: str) -> str:
    """Remove the comments and unnecessary white space of a script and its styles. Shorten its inner names."""
    minified: str = jsmin(script)
    # The sources end each statement with a semicolon, so a brace needs none before it and no line after it.
    short = _LINE_AFTER_BRACE.sub("", _STYLES.sub(_compact_styles, minified).replace(";}", "}"))
    short = _shorten_top_level_names(short, set(_CONSTANT.findall(script)), set(_FUNCTION.findall(script)))
    return _shorten_private_properties(_shorten_private_names(_shorten_keywords(short)))


def _shorten_keywords(script: str) -> str:
    """Replace keywords with shorter ones that mean the same in a script that never assigns to a constant."""
    script = _DECLARATION.sub("let", script)
    return _BOOLEAN.sub(lambda one: "!0" if one[1] == "true" else "!1", script)


def _compact_styles(styles: re.Match[str]) -> str:
    return _SPACE_IN_STYLES.sub(r"\1", styles[0]).strip()


def _shorten_top_level_names(script: str, constants: set[str], functions: set[str]) -> str:
    """Rename constants in capitals, and functions that are only called: each mention means the same.

    A name that is also that of a property, or that begins a text, stays.
    """
    mentions = set(_MENTION.findall(script))
    kept = {name for before, name, after in mentions if before or (name in functions and not after)}
    taken = {name for _, name, _ in mentions}
    short = (name for name in map(str.upper, _short_names()) if name not in taken)
    names = dict(zip(sorted((constants | functions) - kept), short, strict=False))
    return _MENTION.sub(lambda one: f"{one[1]}{names.get(one[2], one[2])}{one[3]}", script)


def _shorten_private_names(script: str) -> str:
    """Rename the private members of all classes. Two classes may share a name: each sees only its own."""
    uses = Counter(_PRIVATE_USE.findall(script))
    # A name that is also a selector or a colour stays.
    renamed = [name for name, _ in uses.most_common() if name not in _QUOTED_NAME.findall(script)]
    taken = set(_PRIVATE_NAME.findall(script)) - set(renamed)
    short = (name for name in _short_names() if name not in taken)
    names = dict(zip(renamed, short, strict=False))
    return _PRIVATE_NAME.sub(lambda found: f"#{names.get(found[1], found[1])}", script)


def _shorten_private_properties(script: str) -> str:
    """Rename the custom properties that begin with an underscore: pages do not set them."""
    found = dict.fromkeys(_PRIVATE_PROPERTY.findall(script))
    names = dict(zip(found, _short_names(), strict=False))
    return _PRIVATE_PROPERTY.sub(lambda one: "--" + names[one[0]], script)


def _short_names() -> Iterator[str]:
    """Yield a, b, … z, ga, gb, … zz. None of them is a colour."""
    yield from ascii_lowercase
    yield from ("".join(pair) for pair in product("ghijklmnopqrstuvwxyz", ascii_lowercase))
