"""The OpenAPI document at `/openapi.json`. Each process renders it once, at the first request."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

from gateway.web.static import serve

PATH = "/openapi.json"


class Document:
    """The endpoint that renders and caches the document."""

    def __init__(self, app: FastAPI, mount: str) -> None:
        self._app = app
        self._mount = mount
        self._rendered: asyncio.Task[Callable[[Request], Awaitable[Response]]] | None = None

    async def serve(self, request: Request) -> Response:
        """Return the document, or 304 if the client has this version."""
        if self._rendered is None:
            # In a thread, because it takes about 200 ms.
            self._rendered = asyncio.create_task(asyncio.to_thread(self._render))
        endpoint = await asyncio.shield(self._rendered)
        answer = await endpoint(request)
        answer.headers["Content-Type"] = "application/json"
        return answer

    def _render(self) -> Callable[[Request], Awaitable[Response]]:
        document = self._app.openapi()
        if self._mount:
            document = {**document, "servers": [{"url": self._mount}]}
            # Unlike paths, these URLs are not relative to `servers` (OpenAPI 3.1, section 4.8.30).
            for scheme in document["components"]["securitySchemes"].values():
                for flow in scheme.get("flows", {}).values():
                    flow["tokenUrl"] = f"{self._mount}{flow['tokenUrl']}"
        # FastAPI would keep it, too, as thousands of objects.
        self._app.openapi_schema = None
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return serve(text.encode(), "application/json", {})
