"""`docs/frontend.md` says what the components and the client have, and its first example works."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

import pytest_asyncio
from playwright.async_api import Browser, expect

from gateway import __version__, web
from tests.docs.test_docs import blocks, text_of
from tests.support.browsers import launched
from tests.support.databases import settings_for
from tests.support.servers import serving

PAGE = text_of("docs/frontend.md")
SDK = files(web).joinpath("sdk")
ELEMENTS = json.loads(SDK.joinpath("custom-elements.json").read_text("utf-8"))["modules"][0]["declarations"]
TYPES = SDK.joinpath("types.d.ts").read_text("utf-8") + SDK.joinpath("notifications.d.ts").read_text("utf-8")


def chapter(heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level or above."""
    level = heading.split(" ", 1)[0]
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, heading
    return found[1]


def table_below(text: str, head: str) -> set[str]:
    """Return the words in backticks of the first column of the table with this head."""
    found = re.search(rf"^\| {head} \|.*\n\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = found[1].splitlines() if found else []
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row.split(" |")[0])}


def names(entries: list[dict[str, str]]) -> set[str]:
    return {entry["name"] for entry in entries}


def test_every_attribute_slot_and_part_of_each_element_is_documented() -> None:
    for element in ELEMENTS:
        text = chapter(f"### `<{element['tagName']}>`")
        assert table_below(text, "attribute") == names(element["attributes"])
        assert table_below(text, "slot") == names(element["slots"])
        assert table_below(text, "part") == names(element["cssParts"])
        common = chapter("## The elements").partition("### ")[0]
        for member in (*element["members"], *element["events"]):
            assert re.search(rf"\b{member['name']}\b", common + text), member["name"]


def test_every_property_of_the_theme_is_documented() -> None:
    described = table_below(chapter("## Theming"), "property")
    assert described == {name for element in ELEMENTS for name in names(element["cssProperties"])}


def interface(name: str) -> set[str]:
    """Return the members of an interface of the types."""
    body = re.search(rf"^export interface {name} \{{\n(.*?)^\}}", TYPES, re.MULTILINE | re.DOTALL)
    assert body is not None
    return set(re.findall(r"^  (?:readonly )?(\w+)\??:", body[1], re.MULTILINE))


def test_every_option_event_property_and_method_of_the_client_is_documented() -> None:
    text = chapter("## The client without the elements")
    assert table_below(text, "option") == interface("Options")
    assert table_below(text, "event") == interface("Events")
    body = TYPES.partition("export class NotificationClient")[2].partition("\n}\n")[0]
    assert table_below(text, "property") == set(re.findall(r"^  readonly (\w+):", body, re.MULTILINE))
    methods = {word.partition("(")[0] for word in table_below(text, "method")}
    inherited = {"constructor", "addEventListener", "removeEventListener"}
    assert methods == set(re.findall(r"^  (\w+)[(<]", body, re.MULTILINE)) - inherited


def test_every_react_hook_is_documented_with_its_return_values() -> None:
    types = SDK.joinpath("react.d.ts").read_text("utf-8")
    text = chapter("### React")
    assert {word.partition("(")[0] for word in table_below(text, "hook")} == set(
        re.findall(r"^export function (\w+)", types, re.MULTILINE)
    )
    [shown] = re.findall(r"^\| `useNotifications\(client\)` \| `\{ ([\w, ]+) \}`", text, re.MULTILINE)
    assert shown.split(", ") == re.findall(r"^  readonly (\w+):", types, re.MULTILINE)


def test_the_versioned_url_has_the_current_version() -> None:
    assert f"`/sdk/{__version__}/components.js`" in PAGE


# --- the example --------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


@asynccontextmanager
async def shop(answers: dict[str, str]) -> AsyncIterator[str]:
    """Serve these texts by their paths, at an origin of its own, and yield the origin."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        body = answers.get(path, "").encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as site:
        yield f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}"


EXAMPLE = blocks(PAGE, "html")[0]
GATEWAY = "https://notify.example.com"


def test_the_readme_shows_the_same_five_lines() -> None:
    assert blocks(text_of("README.md"), "html") == [EXAMPLE.replace(GATEWAY, "http://127.0.0.1:8000")]


async def test_the_five_lines_in_plain_html_are_a_working_bell(sqlite_url: str, browser: Browser) -> None:
    answers: dict[str, str] = {}
    async with (
        shop(answers) as origin,
        serving(settings_for(sqlite_url, allowed_origins=origin)) as server,
    ):
        answers["/token"] = (await server.service.post("/v1/users/ada/tokens")).text
        answers["/"] = "<!doctype html><title>Shop</title>" + EXAMPLE.replace(GATEWAY, server.base)
        await server.service.notify("ada", "Your parcel is on its way")
        page = await browser.new_page()
        await page.goto(origin)
        await page.get_by_role("button", name="Notifications, 1 new").click()
        articles = page.get_by_role("dialog").get_by_role("article")
        await expect(articles).to_contain_text("Your parcel is on its way")
        await server.service.notify("ada", "It has arrived")
        await expect(articles).to_have_count(2)
        await page.close()
        await server.sockets(0)
