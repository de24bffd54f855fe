"""The files of the page: how they are served, and what they may not do."""

import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from gateway import web

FILES = ("/", "/app.js", "/session.js", "/demo.js", "/style.css", "/favicon.svg")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(web.router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize("path", FILES)
async def test_every_file_is_kept_from_being_framed_or_fed_by_others(
    http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("path", FILES)
async def test_a_file_that_has_not_changed_is_not_sent_again(http: httpx.AsyncClient, path: str) -> None:
    first = await http.get(path)
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    changed = await http.get(path, headers={"If-None-Match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)


async def test_each_file_says_what_it_is(http: httpx.AsyncClient) -> None:
    kinds = [(await http.head(path)).headers["content-type"].partition(";")[0] for path in FILES]
    assert kinds == ["text/html", *["text/javascript"] * 3, "text/css", "image/svg+xml"]


async def test_every_file_of_the_package_is_served(http: httpx.AsyncClient) -> None:
    served = {(await http.get(path)).content for path in FILES}
    kept = {file.read_bytes() for file in files(web).iterdir() if file.name.rpartition(".")[2] in _KINDS}
    assert served == kept


_KINDS = {"html", "js", "css", "svg"}


async def test_the_page_never_makes_markup_of_text() -> None:
    for file in (*files(web).iterdir(), *files(web).joinpath("sdk").iterdir()):
        if not file.name.endswith(".js"):
            continue
        source = file.read_text("utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source
        )
