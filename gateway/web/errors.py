"""The page of errors at `/errors`: docs/errors.md as HTML. The `type` of each problem links to it.

The page is a single file that loads nothing. A table row whose first cell is a code has that code as its
anchor.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter

from gateway.web.static import serve

PATH = "/errors"

_HEADING = re.compile(r"(#+) (.*)")
_CODE_ROW = re.compile(r"<tr><td><code>(\w+)</code></td>")
_LINK = re.compile(r"\[([^\[\]]+)\]\([^()]*\)")
_CODE = re.compile(r"`([^`]+)`")

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { padding: 0.75rem; background: #8882; white-space: pre-wrap; overflow-wrap: anywhere; }
table { display: block; overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: start; vertical-align: top; padding: 0.4rem 0.6rem; border-bottom: 1px solid #8886; }
tr:target { background: #fd08; scroll-margin-top: 2rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


def text() -> str:
    """Return the text of docs/errors.md, from the installed wheel or from the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "web" / "errors.md"
    return (installed if installed.is_file() else package.parent / "docs" / "errors.md").read_text("utf-8")


def page(markdown: str) -> str:
    """Render the page. Supports only the Markdown that docs/errors.md uses."""
    title = markdown.partition("\n")[0].removeprefix("# ")
    body = _anchor("\n".join(_block(block) for block in _blocks(markdown)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def _blocks(markdown: str) -> Iterator[str]:
    for number, part in enumerate(markdown.split("\n```")):
        if number % 2:
            yield f"```{part}"
        else:
            yield from filter(None, map(str.strip, part.split("\n\n")))


def _block(block: str) -> str:
    if block.startswith("```"):
        code = block.partition("\n")[2]
        return f"<pre>{html.escape(code)}</pre>"
    if heading := _HEADING.fullmatch(block):
        level = len(heading[1])
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    if block.startswith("| "):
        return _table(block.splitlines())
    return f"<p>{_inline(block)}</p>"


def _table(lines: list[str]) -> str:
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]
    titles = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>\n{''.join(map(_row, rows))}</tbody></table>"


def _row(cells: list[str]) -> str:
    return f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in cells)}</tr>\n"


def _anchor(body: str) -> str:
    """Give each table row whose first cell is a code that code as its id; of equal ones, only the first."""
    seen: set[str] = set()

    def anchored(row: re.Match[str]) -> str:
        if row[1] in seen:
            return row[0]
        seen.add(row[1])
        return f'<tr id="{row[1]}"><td><code>{row[1]}</code></td>'

    return _CODE_ROW.sub(anchored, body)


def _inline(text: str) -> str:
    """Render code spans, and reduce links to their text: the gateway does not serve the other pages."""
    words = _LINK.sub(r"\1", text)
    return _CODE.sub(r"<code>\1</code>", html.escape(words, quote=False))


router = APIRouter()
router.add_route(
    PATH, serve(page(text()).encode(), "text/html", _HEADERS), methods=["GET"], include_in_schema=False
)
