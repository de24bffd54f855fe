"""The examples of docs/choose.md, run as they stand against a real gateway."""

import asyncio
import json
import os
from typing import Any

from tests.docs.test_docs import blocks, text_of
from tests.support.servers import LocalServer

PAGE = text_of("docs/choose.md")


async def run(script: str, server: LocalServer) -> list[Any]:
    """Return the JSON that a script prints: one object for each request."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script.replace("http://127.0.0.1:8000", server.base)),
        env={**os.environ, "KEY": server.service.token or ""},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    decoder, text, found = json.JSONDecoder(), printed.decode(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


async def test_the_examples_do_what_the_page_says(server: LocalServer) -> None:
    scheduled, corrected, wanted = blocks(PAGE, "sh")
    (posted,) = await run(scheduled, server)
    assert posted["state"] == "scheduled"
    edited, withdrawn = await run(corrected, server)
    assert (edited["title"], withdrawn["state"]) == ("Lunch at noon", "unsent")
    ada = await server.user()
    assert (await ada.inbox())["items"] == []
    posted = await server.service.notify("ada", "This one, but later")
    preferences, snoozed = await run(wanted, server)
    assert preferences["categories"] == {"promo": {"muted": True}}
    assert [window["from"] for window in preferences["quiet_hours"]] == ["22:00"]
    assert (snoozed["id"], snoozed["snoozed_until"] is not None) == (posted["id"], True)
    assert (await ada.inbox())["items"] == []
