"""The files of the page: how they are served, and what they may not do."""

import gzip
import json
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
async def test_every_file_has_a_policy_against_framing_and_foreign_content(
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
async def test_an_unchanged_file_is_answered_with_304(http: httpx.AsyncClient, path: str) -> None:
    first = await http.get(path)
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    changed = await http.get(path, headers={"If-None-Match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)


async def test_each_file_has_its_content_type(http: httpx.AsyncClient) -> None:
    kinds = [(await http.head(path)).headers["content-type"].partition(";")[0] for path in FILES]
    assert kinds == ["text/html", *["text/javascript"] * 3, "text/css", "image/svg+xml"]


async def test_every_file_of_the_package_is_served(http: httpx.AsyncClient) -> None:
    served = {(await http.get(path)).content for path in FILES}
    kept = {file.read_bytes() for file in files(web).iterdir() if file.name.rpartition(".")[2] in _KINDS}
    assert served == kept


_KINDS = {"html", "js", "css", "svg"}


async def test_the_page_never_creates_markup_from_text() -> None:
    for file in (*files(web).iterdir(), *files(web).joinpath("sdk").iterdir()):
        if not file.name.endswith(".js"):
            continue
        source = file.read_text("utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source
        )


# --- the SDK ------------------------------------------------------------------------------------------------

SDK = files(web).joinpath("sdk")
SOURCES = {file.name: file.read_text("utf-8") for file in SDK.iterdir() if file.name.endswith(".js")}


def closure(name: str, seen: set[str]) -> set[str]:
    """Return a module and all that it imports."""
    if name not in seen:
        seen.add(name)
        for other in re.findall(r"(?:from |import\()'\./([\w-]+\.js)'", SOURCES[name]):
            closure(other, seen)
    return seen


WHOLE = closure("components.js", set())
COMPONENTS = "".join(SOURCES[name] for name in sorted(WHOLE - closure("notifications.js", set())))
ELEMENTS = json.loads(SDK.joinpath("custom-elements.json").read_text("utf-8"))["modules"][0]["declarations"]


def named(kind: str) -> set[str]:
    """Return what the manifest names of a kind, of all elements."""
    return {entry["name"] for one in ELEMENTS for entry in one[kind]}


async def test_the_client_and_the_components_are_at_most_40_kib(http: httpx.AsyncClient) -> None:
    sent = [(await http.get(f"/sdk/{entry}")).content for entry in ("notifications.js", "components.js")]
    assert sum(len(gzip.compress(content, 9)) for content in sent) <= 40 * 1024


async def test_the_components_bring_no_second_client(http: httpx.AsyncClient) -> None:
    # A page that imports both entries has one client, and one connection.
    text = (await http.get("/sdk/components.js")).text
    assert re.findall(r"from ?'(.*?)'", text) == ["./notifications.js"]
    assert "class NotificationClient" not in text


def test_every_module_of_the_sdk_is_loaded_by_its_entries() -> None:
    assert set(SOURCES) == WHOLE | closure("react.js", set())


def test_the_manifest_names_every_event_property_part_and_slot() -> None:
    assert named("events") == set(re.findall(r"new CustomEvent\('([\w-]+)'", COMPONENTS))
    assert named("cssProperties") == set(re.findall(r"var\((--notification-[a-z-]+)", COMPONENTS))
    state = {part for text in re.findall(r"\bpart: '([a-z ]+)'", COMPONENTS) for part in text.split()}
    state |= {
        one
        for found in re.findall(r"part\.toggle\('(\w+)'|quote\('\w+', '(\w+)'", COMPONENTS)
        for one in found
    }
    assert named("cssParts") == state - {""}
    slots = set(re.findall(r"make\('slot', \{ name: '([\w-]+)'", COMPONENTS))
    slots |= set(re.findall(r"\bslot: '([\w-]+)'", COMPONENTS))
    assert named("slots") == slots


def test_the_bell_exports_every_part_of_its_inbox() -> None:
    listed = re.findall(r"PARTS = '(.*?);", COMPONENTS, re.DOTALL)[0]
    [inbox] = [one for one in ELEMENTS if one["tagName"] == "notification-inbox"]
    assert set(re.findall(r"\w+", listed)) == {part["name"] for part in inbox["cssParts"]}
