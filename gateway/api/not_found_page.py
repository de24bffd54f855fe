"""The page for a browser that opens an unknown path, such as the link of a notification of another site."""

from http import HTTPStatus

from fastapi import Request, Response
from starlette.responses import HTMLResponse

from gateway.transport.headers import API_POLICY

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Not found</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body><h1>There is no such page</h1>
<p>The gateway has none at this address. If the link of a notification is only a path, such as
<code>/orders/7</code>, it leads to that path of the site that shows the notification.</p>
<p><a href="{home}/">Go to the inbox</a></p></body></html>
"""


def page_for_browser(request: Request) -> Response | None:
    """Return the page if a browser navigates outside the API: it asks for HTML, and no other client does."""
    path = request.scope["path"].removeprefix(home := request.scope.get("root_path", ""))
    asks_html = "text/html" in request.headers.get("accept", "")
    if not asks_html or request.method not in {"GET", "HEAD"} or f"{path}/".startswith("/v1/"):
        return None
    headers = API_POLICY | {"Vary": "Accept"}
    return HTMLResponse(_PAGE.format(home=home), HTTPStatus.NOT_FOUND, headers)
