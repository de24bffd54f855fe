"""The inbox page at `/`: a few files, served as they lie in the package, with nothing from elsewhere.

The page shows what strangers wrote to a user who holds a token, so the policy below leaves the browser no
way to run, load or send anything but these files, should the page ever mistake a text for markup.
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request, Response

_HEADERS = {
    # 'self' covers the socket too: a browser takes ws: on the page's own host and port for the same origin
    # (Content Security Policy Level 3, section 6.7.2.8). Trusted Types make a stray innerHTML throw.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    # Always ask, so that a new version of the gateway never meets an old page; an unchanged file costs a 304.
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


def _serve(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint for one file. It answers `If-None-Match` (RFC 9110, section 13.1.2)."""
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = _HEADERS | {"Content-Type": f"{media_type}; charset=utf-8", "ETag": etag}

    async def endpoint(request: Request) -> Response:
        known = [
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        ]
        if etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return endpoint


router = APIRouter()
for _path, (_name, _media_type) in _FILES.items():
    _content = files(__name__).joinpath(_name).read_bytes()
    router.add_route(
        _path, _serve(_content, _media_type), methods=["GET"], name=_name, include_in_schema=False
    )

demo_router = APIRouter()
"""The page of a demo, which knows that it is one. It goes before `router`."""

_demo_page = files(__name__).joinpath("index.html").read_bytes().replace(b"<html ", b"<html data-demo ", 1)
demo_router.add_route("/", _serve(_demo_page, "text/html"), methods=["GET"], include_in_schema=False)
