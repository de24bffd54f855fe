"""The API reference at `/docs`: Swagger UI, from the package, for the gateway's own OpenAPI document.

The page shares its origin with the inbox page, whose tabs keep tokens. So its scripts are files of the
package, and its policy lets it run and request nothing else.
"""

from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse

from gateway.web.static import IMMUTABLE, serve

SWAGGER_VERSION = "5.35.0"
"""The release of swagger-ui-dist whose files are in `swagger/`."""

REFERENCE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_FILES = {
    "/docs": ("index.html", "text/html", "no-cache"),
    "/docs/start.js": ("start.js", "text/javascript", "no-cache"),
    f"/docs/{SWAGGER_VERSION}/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript", IMMUTABLE),
    f"/docs/{SWAGGER_VERSION}/swagger-ui.css": ("swagger-ui.css", "text/css", IMMUTABLE),
}

router = APIRouter()
for _path, (_name, _media_type, _caching) in _FILES.items():
    _endpoint = serve(
        files("gateway.web").joinpath("swagger", _name).read_bytes(),
        _media_type,
        {"Content-Security-Policy": REFERENCE_POLICY, "Cache-Control": _caching},
    )
    router.add_route(_path, _endpoint, methods=["GET"], include_in_schema=False)


async def _redirect(_request: Request) -> RedirectResponse:
    # Relative, like the links of the page, so that it works below any mount point.
    return RedirectResponse("docs", status_code=308)


router.add_route("/redoc", _redirect, methods=["GET"], include_in_schema=False)
