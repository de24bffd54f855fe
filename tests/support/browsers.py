"""A real Chromium, and the components in it without a gateway."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import axe_playwright_python
import httpx
import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, Page, Route, async_playwright

from gateway import web

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Start a browser. Without one the tests skip and say what to install; where `CI` is set, they fail."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = "there is no Chromium to test with; install it, on Debian with: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        await started.close()


async def violations(page: Page) -> list[Any]:
    """Return what axe-core finds on a page: each rule, and the elements that break it.

    The page's context must bypass its policy, which knows no other script than the page's own.
    """
    await page.evaluate(AXE)
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        (one["id"], one["help"], [(node["target"], node.get("failureSummary")) for node in one["nodes"]])
        for one in found["violations"]
    ]


ORIGIN = "http://localhost"
"""Where the stage is. A browser trusts this host as it does https."""

_STAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>App</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/stage.css"></head>
<body><main><h1>App</h1><button id="before">Before</button></main></body></html>"""
_STYLE = """:root { color-scheme: light dark; } body { margin: 0; background: Canvas; color: CanvasText; }
notification-inbox { height: 500px; }"""
_FAKE = (Path(__file__).parent / "fake_client.js").read_text()


_FILES = {
    "/": (_STAGE, "text/html"),
    "/stage.css": (_STYLE, "text/css"),
    "/fake_client.js": (_FAKE, "text/javascript"),
}


@cache
def _gateway() -> FastAPI:
    """Return what serves the SDK, as the gateway does."""
    app = FastAPI()
    app.include_router(web.router)
    return app


async def serve_stage(route: Route) -> None:
    """Answer for a page that has the policy of the gateway's own, the SDK, and a client without a gateway."""
    path = route.request.url.removeprefix(ORIGIN)
    if path in _FILES:
        body, kind = _FILES[path]
        headers = {"Content-Security-Policy": web.PAGE_POLICY, "Content-Type": f"{kind}; charset=utf-8"}
        await route.fulfill(body=body, headers=headers)
    else:
        transport = httpx.ASGITransport(_gateway())
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as gateway:
            answer = await gateway.get(path)
        await route.fulfill(status=answer.status_code, body=answer.content, headers=dict(answer.headers))
