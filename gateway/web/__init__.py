"""The inbox page at `/` and the browser SDK at `/sdk/`, served from the files of the package.

The page shows text from others to a user who holds a token. If a bug ever turned such a text into markup, the
policy below would still keep the browser from running or loading anything else, or sending it elsewhere.
"""

from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.web.scripts import bundle, compact
from gateway.web.static import IMMUTABLE, mounted, serve

# 'self' covers the socket, too: ws: on the page's own host and port counts as the same origin (Content
# Security Policy Level 3, section 6.7.2.8). Trusted Types make a stray innerHTML throw.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    # Revalidate each time, so that an old page never runs on a new gateway. An unchanged file costs a 304.
    "Cache-Control": "no-cache",
}

_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/session.js": ("session.js", "text/javascript"),
    "/demo.js": ("demo.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}

_SDK = files(__name__).joinpath("sdk")
_ENTRIES = ("notifications.js", "components.js")
_SDK_TYPES = {".js": "text/javascript", ".ts": "application/typescript", ".json": "application/json"}
_SDK_HEADERS = {
    # Pages of any origin may load the SDK: it is public, and does nothing without the page's token.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter()


def _add(path: str, content: bytes, media_type: str, headers: Mapping[str, str]) -> None:
    router.add_route(path, serve(content, media_type, headers), methods=["GET"], include_in_schema=False)


for _path, (_name, _media_type) in _FILES.items():
    _add(_path, files(__name__).joinpath(_name).read_bytes(), _media_type, _HEADERS)

for _file in _SDK.iterdir():
    _suffix = _file.name[_file.name.rfind(".") :]
    if _suffix in _SDK_TYPES:
        _text = bundle(_SDK, _file.name) if _file.name in _ENTRIES else _file.read_text("utf-8")
        _is_module = _suffix == ".js" and _file.name not in _ENTRIES
        _content = (compact(_text) if _is_module else _text).encode()
        # Browsers revalidate a path without a version each time. A path with a version never changes.
        for _path, _caching in (("/sdk", "no-cache"), (f"/sdk/{__version__}", IMMUTABLE)):
            _headers = _SDK_HEADERS | {"Cache-Control": _caching}
            _add(f"{_path}/{_file.name}", _content, _SDK_TYPES[_suffix], _headers)


def page_routes(mount: str, *, demo: bool) -> list[BaseRoute]:
    """Return the routes of the page below a mount point, or marked as a demo. Add them before `router`."""
    page = mounted(files(__name__).joinpath("index.html").read_bytes(), mount)
    if demo:
        page = page.replace(b"<html ", b"<html data-demo ", 1)
    paths = ["/", mount] if mount else ["/"]
    return [Route(path, serve(page, "text/html", _HEADERS), methods=["GET"]) for path in paths]
