"""What others have written does nothing to the terminal of who reads it."""

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.cli import client
from gateway.cli.client import ClientError
from gateway.cli.messages import _show
from gateway.cli.options import note
from gateway.protocol.terminal import cut, escape, json_line, shown
from tests.support.servers import LocalServer
from tests.support.waiting import until

HOSTILE = "a\x1b]0;owned\x07\x9b31m\x7f\r\u202e\u2028\xa0\u200b\U000e0001"
"""A title is set, a colour, a carriage return; letters are turned round, and hidden."""

PRINTED = "Grüße, 東京 🔑 'quoted' \"twice\" \\\\ back"


@pytest.mark.parametrize("text", [HOSTILE, "half \ud800", PRINTED, ""], ids=ascii)
def test_a_json_line_is_printable_and_parses_to_the_same_value(text: str) -> None:
    value = {text: [text, 1, None, 1.5]}
    line = json_line(value)
    assert line.isprintable()
    assert json.loads(line) == value


def test_printable_text_is_not_escaped() -> None:
    assert escape(PRINTED) == PRINTED
    assert escape("\x1b\n\u202e") == "\\u001b\\n\\u202e"
    assert json_line({"title": "Grüße 🔑"}) == '{"title": "Grüße 🔑"}'


def test_truncated_text_has_exactly_the_maximum_length() -> None:
    assert (cut("a" * 200), cut("a" * 201)) == ("a" * 200, "a" * 199 + "…")
    assert len(shown("\x1b" * 10**6)) == 200
    assert len(shown("\x1b" * 100, 64)) == 64


async def test_tail_prints_a_message_as_one_line_of_printable_json(
    server: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = await server.user("ada")
    title = HOSTILE[:100]
    await server.service.notify("ada", title, body=PRINTED)
    assert ada.token is not None
    tail = asyncio.create_task(client.tail(server.base, ada.token, _show, note))
    said: list[str] = []

    def has_come() -> bool:
        said.extend(capsys.readouterr().out.splitlines(keepends=True))
        return any('"live"' in line for line in said)

    await until(has_come, "all is printed")
    tail.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tail
    assert all(line.endswith("\n") and line[:-1].isprintable() for line in said)
    messages = [json.loads(line) for line in said]
    (item,) = [one["notification"] for one in messages if one["type"] == "notification"]
    assert (item["title"], item["body"]) == (title, PRINTED)


@pytest.mark.parametrize("text", ["no JSON", "[]", "7", "{}", "[" * 100_000], ids=range(5))
def test_a_malformed_response_is_reported_as_not_from_a_gateway(text: str) -> None:
    with pytest.raises(ClientError, match=r"^http://x: this is not a gateway$"):
        client._read("http://x", text)


def test_an_error_from_a_server_is_printed_truncated_and_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ClientError(HOSTILE * 1000)

    monkeypatch.setattr(client, "send", refuse)
    assert cli.run(["send", "ada", "Hello", "--key", "x"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    assert len(said) < 2100


def test_users_are_listed_as_lines_of_printable_json(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = "ada\u202e\u2028\xa0"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", sqlite_url)

    def said(*command: str) -> str:
        assert cli.run(["user", *command]) == 0
        return capsys.readouterr().out.removesuffix("\n")

    for line in (said("add", sub), said("list")):
        assert line.isprintable()
        assert json.loads(line)["sub"] == sub
    assert said("disable", sub).isprintable()


@pytest.mark.parametrize("command", [["tail", "--token"], ["send", "ada", "Hello", "--key"]])
def test_a_secret_can_be_read_from_stdin(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used: list[str] = []

    async def tail(_server: str, token: str, *_: object) -> None:
        used.append(token)

    def send(_server: str, key: str, _notification: object) -> dict[str, object]:
        used.append(key)
        return {}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "tail", tail)
    monkeypatch.setattr(client, "send", send)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the-secret\n")))
    assert cli.run([*command, "-"]) == 0
    assert used == ["the-secret"]


def test_no_example_has_a_secret_as_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("tail", "send"):
        cli.run([command, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert "--token $" not in said
        assert "--key $" not in said
        assert "prefer the variable" in said.replace("│ ", "").replace(" │", "")
