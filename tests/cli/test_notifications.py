"""`gateway send` with options, and `gateway notification`, against a real gateway."""

import asyncio
import json
from typing import Any

import pytest

from gateway import cli
from tests.support.servers import LocalServer

Run = Any


@pytest.fixture
def run(server: LocalServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command as the service of the tests, and returns what it prints."""
    monkeypatch.setenv("GATEWAY_KEY", server.service.token or "")
    monkeypatch.setenv("GATEWAY_URL", server.base)

    async def run(*arguments: str) -> tuple[int, Any]:
        code = await asyncio.to_thread(cli.run, list(arguments))
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if code == 0 else printed.err

    return run


async def test_send_takes_every_option_of_a_post(server: LocalServer, run: Run) -> None:
    code, sent = await run(
        *("send", "ada", "Deploy?", "--icon", "/i.svg", "--actions", '[{"id": "ok", "label": "Yes"}]'),
        *("--deliver-at", "2020-01-01T00:00:00Z"),
        *("--ttl", "3600", "--collapse-key", "deploy:7", "--data", '{"n": 7}'),
    )
    assert (code, sent["state"]) == (0, "delivered")
    (item,) = (await (await server.user()).inbox())["items"]
    assert (item["icon"], item["actions"][0]["label"], item["data"]) == ("/i.svg", "Yes", {"n": 7})
    assert item["expires_at"] is not None
    assert (await run("notification", "show", sent["id"]))[1]["collapse_key"] == "deploy:7"


async def test_a_notification_is_edited_and_taken_back(server: LocalServer, run: Run) -> None:
    _, sent = await run("send", "ada", "At nine", "--body", "b")
    code, edited = await run("notification", "edit", sent["id"], "--title", "At ten", "--clear", "body")
    assert (code, edited["title"], edited["body"]) == (0, "At ten", None)
    code, error = await run("notification", "unsend", sent["id"], "--scheduled")
    assert (code, error.split(":")[:2]) == (1, ["gateway", " precondition_failed"])
    code, withdrawn = await run("notification", "unsend", sent["id"])
    assert (code, withdrawn) == (0, {"state": "unsent", "recipients": 1, "seen": 0, "read": 0})
    code, error = await run("notification", "edit", sent["id"], "--renotify")
    assert (code, "notification_ended" in error) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "7"), "ID: it must be the id of a notification"),
        (("edit", "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1"), "give something to change"),
        (
            ("edit", "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1", "--clear", "title"),
            "--clear: it must be one of body",
        ),
        (
            ("edit", "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1", "--body", "b", "--clear", "body"),
            "--clear body: give it or --body, not both",
        ),
        (
            ("edit", "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1", "--actions", "{}"),
            "--actions: it must be a JSON array",
        ),
        (("show", "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1"), "not_found"),
    ],
)
async def test_a_mistake_is_named_in_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, error = await run("notification", *arguments)
    assert code != 0
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("send", ("1 to 31,622,400 seconds", '"style"', '"url"', '"reply"')),
        ("notification edit", ("one that is still scheduled", "it is left out, the time stays", '"style"')),
        ("notification show", ("The API key of the posting service",)),
        ("notification unsend", ("The API key of the posting service",)),
    ],
)
def test_the_help_says_what_an_option_takes(
    command: str, said: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*command.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [words for words in said if words not in shown] == []
    assert "to post with" not in shown
