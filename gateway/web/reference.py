"""The reference pages at `/docs` and `/redoc`: the API's own OpenAPI, shown by scripts of a public CDN.

Their policies let that CDN's scripts run, and of those in the page exactly the ones that stand in it now.
"""

import base64
import re
from collections.abc import Awaitable, Callable
from hashlib import sha256

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse

_CDN = "https://cdn.jsdelivr.net"
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_COMMON = (
    "default-src 'none'; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; "
    # Both pages write style attributes.
    f"style-src 'unsafe-inline' {_CDN} https://fonts.googleapis.com; font-src data: https://fonts.gstatic.com"
)
_OPENAPI, _TITLE = "/openapi.json", "Notification Gateway"


def _serve(page: HTMLResponse) -> Callable[[Request], Awaitable[HTMLResponse]]:
    """Return an endpoint for a page, with a policy that names its own scripts by their hashes."""
    html = bytes(page.body).decode()
    hashes = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in _INLINE.findall(html)]
    allowed = " ".join([_CDN, *(f"'sha256-{one}'" for one in hashes)])
    headers = {"Content-Security-Policy": f"{_COMMON}; script-src {allowed}", "Cache-Control": "no-cache"}

    async def endpoint(_request: Request) -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    return endpoint


router = APIRouter()
for _path, _page in {
    "/docs": get_swagger_ui_html(openapi_url=_OPENAPI, title=_TITLE),
    "/redoc": get_redoc_html(openapi_url=_OPENAPI, title=_TITLE),
}.items():
    router.add_route(_path, _serve(_page), methods=["GET"], name=_path, include_in_schema=False)
