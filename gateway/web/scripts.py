"""The scripts of the SDK, as they are sent: one file for an entry, without what only its readers need.

The sources are ES modules that run as they are, and the package for bundlers has them so. A page that loaded
them one by one would wait for each to name the next, and for twice the bytes.
"""

import re
from importlib.resources.abc import Traversable

from rjsmin import jsmin

_IMPORT = re.compile(r"^import \{[^}]*\} from '\./([\w-]+\.js)';\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def modules(folder: Traversable, entry: str) -> dict[str, str]:
    """Return a module and all that it imports from beside it, by name, each after what it needs."""
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
    """Return a module and all that it imports from beside it as one module.

    They become one scope: no two may declare the same name at their top level, or the script is refused by
    whoever loads it. Only `import { … } from './….js'` is known, and `export` before a declaration.
    """
    texts = modules(folder, entry)
    inner = [_EXPORT.sub("", text) for name, text in texts.items() if name != entry]
    return _IMPORT.sub("", "".join([*inner, texts[entry]]))


def compact(script: str) -> str:
    """Return a script without its comments and the white space that it does not need. Nothing is renamed."""
    minified: str = jsmin(script)
    return minified
