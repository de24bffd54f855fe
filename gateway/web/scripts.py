"""The bundler of the SDK: it joins each entry module with its imports into one file, and minifies it.

The sources are ES modules that run unbuilt, and the package for bundlers ships them like that. A page that
loaded them one by one would wait for a chain of requests, and load twice the bytes.
"""

import re
from importlib.resources.abc import Traversable

from rjsmin import jsmin

_IMPORT = re.compile(r"^import \{[^}]*\} from '\./([\w-]+\.js)';\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_STYLES = re.compile(r"(?<=\bsheet\(`)[^`]*")


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


def compact(script: str) -> str:
    """Remove the comments and unnecessary white space of a script and its style sheets. Renames nothing."""
    minified: str = jsmin(script)
    return _STYLES.sub(lambda styles: _compact_styles(styles[0]), minified)


def _compact_styles(styles: str) -> str:
    """Remove the white space beside punctuation, but not before a colon: there it joins two selectors."""
    packed = re.sub(r"\s*([{};,])\s*", r"\1", styles).replace(";}", "}").strip()
    return re.sub(r"(?<=[\w-]): ", ":", packed)
