"""The OpenAPI document at `/openapi.json`, rendered once in a process, at the first request for it."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

from gateway.web.static import serve

PATH = "/openapi.json"


class Document:
    """The endpoint."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._rendered: asyncio.Task[Callable[[Request], Awaitable[Response]]] | None = None

    async def serve(self, request: Request) -> Response:
        """Answer with the document, or with 304 to who has it."""
        if self._rendered is None:
            # In a thread, for it takes some 200 ms.
            self._rendered = asyncio.create_task(asyncio.to_thread(self._render))
        endpoint = await asyncio.shield(self._rendered)
        answer = await endpoint(request)
        answer.headers["Content-Type"] = "application/json"
        return answer

    def _render(self) -> Callable[[Request], Awaitable[Response]]:
        document = json.dumps(self._app.openapi(), ensure_ascii=False, separators=(",", ":"))
        return serve(document.encode(), "application/json", {})
