"""The documentation says what the code does: settings, codes, messages, routes, layers, and the tour."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgpack
import pytest
from pydantic import ValidationError

from gateway.api.inbox import MAX_PAGE
from gateway.api.notification import Notification
from gateway.api.oauth import ERROR_CODES, OAuthError
from gateway.api.validation import as_invalid
from gateway.app import create_app
from gateway.auth.limits.held_answers import (
    MAX_ANSWER_BYTES,
    MAX_LONG_BYTES,
    MAX_PAGES_AT_ONCE,
    MAX_WAITING_PAGES,
    UNCOUNTED_BYTES,
)
from gateway.auth.limits.rate_limits import LONG_ANSWERS, SENT_ON_KIB, USER_SOCKETS_FACTOR
from gateway.cli import app, run
from gateway.delivery.commands import COMMAND_BURST_SECONDS
from gateway.delivery.recent_entries import BURST_BYTES
from gateway.errors import GatewayError
from gateway.observability.audit import Event
from gateway.protocol import messages
from gateway.protocol.close_codes import ADVICE
from gateway.protocol.commands import CommandType, decode_command, decode_packed_command
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content, Counts, Item, encode_item
from gateway.protocol.packing import MAX_ARRAY
from gateway.protocol.problems import problem_code
from gateway.protocol.wire import MAX_FRAME
from gateway.settings import Settings
from gateway.store.changes import CHUNK
from gateway.store.inbox import PAGE_BYTES
from gateway.transport.inbound import MAX_UNCOUNTED_BYTES
from gateway.transport.slices import SLICE_BYTES
from gateway.transport.socket import LINGER_SECONDS
from gateway.transport.unsent import HIGH_WATER_BYTES, MAX_LINGERING_BYTES, MAX_UNSENT_BYTES
from gateway.web import errors as errors_page
from tests.support.databases import settings_for
from tests.support.packing import unpacked
from tests.support.servers import process

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def section(text: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level or above."""
    level = heading.split(" ", 1)[0]
    found = re.search(
        rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"there is no heading {heading!r}"
    return found[1]


def table(text: str) -> list[list[str]]:
    """Return the rows of the tables in a text without their heads, as lists of cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    heads = re.findall(r"^(\| .*)\n\|-", text, re.MULTILINE)
    return [row for row in rows if row not in [[c.strip() for c in h.strip("|").split(" |")] for h in heads]]


def first_codes(text: str) -> set[str]:
    """Return the words in backticks of the first column of the tables in a text."""
    return {word for row in table(text) for word in re.findall(r"`([^`]+)`", row[0])}


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- configuration ------------------------------------------------------------------------------------------


def default_of(name: str) -> str:
    """Return a setting's default as the table writes it."""
    value = Settings.model_fields[name].default
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def range_of(name: str) -> str:
    """Return the range of a number as the table writes it."""
    bounds = {
        kind: getattr(rule, kind)
        for rule in Settings.model_fields[name].metadata
        for kind in ("ge", "le", "gt")
        if getattr(rule, kind, None) is not None
    }
    if "gt" in bounds:
        return f"above {bounds['gt']}"
    if "ge" in bounds:
        return f"{bounds['ge']} to {bounds['le']}" if "le" in bounds else f"from {bounds['ge']}"
    return ""


def test_the_documented_settings_defaults_and_ranges_match_the_code() -> None:
    rows = table(section(text_of("docs/configuration.md"), "## Settings"))
    documented = {row[0]: (row[1], row[2]) for row in rows}
    assert documented == {
        f"`GATEWAY_{name.upper()}`": (default_of(name), range_of(name)) for name in Settings.model_fields
    }


def test_the_settings_of_the_readme_exist_and_have_the_documented_defaults() -> None:
    rows = table(section(text_of("README.md"), "## Settings"))
    for row in rows:
        names, defaults = row[0].split(", "), row[1].split(", ")
        assert defaults == [default_of(name.strip("`").removeprefix("GATEWAY_").lower()) for name in names]


def test_every_setting_named_on_a_page_exists() -> None:
    known = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    known |= {"GATEWAY_URL", "GATEWAY_KEY", "GATEWAY_TOKEN"}
    known |= {"GATEWAY_TEST_POSTGRES_URL", "GATEWAY_TEST_REDIS_URL"}
    named = {name for page in PAGES for name in re.findall(r"\bGATEWAY_[A-Z_]+[A-Z]", page.read_text())}
    assert named <= known


# --- errors, close codes, messages --------------------------------------------------------------------------


def error_classes(base: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield base
    for subclass in base.__subclasses__():
        yield from error_classes(subclass)


def source_of_the_gateway() -> str:
    return "\n".join(file.read_text() for file in sorted((ROOT / "gateway").rglob("*.py")))


def test_every_problem_code_is_documented_with_its_status() -> None:
    rows = table(section(text_of("docs/errors.md"), "## Codes"))
    documented = {row[0].strip("`"): row[1].strip("–") for row in rows}  # noqa: RUF001 - the table has a dash
    known = {one.code: str(one.status) for one in error_classes() if one is not OAuthError}
    # A socket alone meets the limit of sockets; the framework refuses a method.
    assert documented == known | {"too_many_sockets": "", "method_not_allowed": "405"}


def test_the_codes_of_refusals_before_the_application_are_documented_with_their_status() -> None:
    named = set(re.findall(r"(?:Refused|_refuse)\(\s*HTTPStatus\.(\w+)", source_of_the_gateway()))
    assert {"REQUEST_TIMEOUT", "REQUEST_URI_TOO_LONG", "TOO_MANY_REQUESTS"} <= named
    page = " ".join(section(text_of("docs/errors.md"), "## Codes").split())
    for status in sorted(HTTPStatus[name] for name in named):
        assert re.search(rf"`{problem_code(status)}` \({status:d}\)", page), status


def test_the_first_example_of_an_error_is_what_the_gateway_returns() -> None:
    example = json.loads(blocks(text_of("docs/errors.md"), "json")[0])
    with pytest.raises(ValidationError) as caught:
        Notification.model_validate({"to": "ada", "titel": "Hello"})
    error = as_invalid(caught.value.errors(), body=Notification)
    assert (example["detail"], example["errors"]) == (error.detail, error.errors)


@pytest.mark.parametrize("value", ["true", "1", "yes", "y", "on", "t", "false", "0", "no", "n", "off", "f"])
def test_every_documented_spelling_of_a_boolean_is_accepted(value: str) -> None:
    rule = text_of("docs/configuration.md").partition("Booleans are ")[2].partition("## ")[0]
    assert f"`{value}`" in rule
    truth = value in {"true", "1", "yes", "y", "on", "t"}
    for spelled in (value, value.upper()):
        assert Settings(access_log=spelled).access_log is truth


def test_the_errors_page_has_an_anchor_for_every_code_and_loads_no_resources() -> None:
    page = errors_page.page(errors_page.text())
    assert errors_page.text() == text_of("docs/errors.md")
    codes = {one.code for one in error_classes() if one is not OAuthError} | {"method_not_allowed"}
    assert [code for code in sorted(codes) if page.count(f'id="{code}"') != 1] == []
    assert re.findall(r"<(?:script|link|img|iframe)|(?:src|href)=|url\(|@import|\*\*|\]\(", page) == []
    assert "&lt;" not in re.sub(r"<code>.*?</code>|<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_every_code_of_a_refused_command_is_documented() -> None:
    documented = first_codes(section(text_of("docs/errors.md"), "## Errors of commands on a socket"))
    assert documented >= set(re.findall(r'BadCommand\(\s*"(\w+)"', source_of_the_gateway()))


def test_every_oauth_error_is_documented() -> None:
    documented = first_codes(section(text_of("docs/errors.md"), "## The OAuth endpoints"))
    raised = set(re.findall(r'OAuthError\(\s*"(\w+)"', source_of_the_gateway()))
    assert documented == raised | set(ERROR_CODES.values())


def test_every_close_code_is_documented_with_its_advice() -> None:
    rows = table(section(text_of("docs/protocol.md"), "## Close codes"))
    assert {int(row[0]): row[3] for row in rows} == {int(code): advice for code, advice in ADVICE.items()}


def test_every_command_is_documented_and_every_command_example_is_valid() -> None:
    commands = section(text_of("docs/protocol.md"), "## Commands")
    assert {row[0].strip("`") for row in table(commands)} == set(CommandType)
    examples = [decode_command(line) for line in blocks(commands, "json")[0].splitlines()]
    assert {example.type for example in examples} == set(CommandType)


def test_every_messagepack_example_is_valid() -> None:
    part = section(text_of("docs/protocol.md"), "## MessagePack")
    examples = [block for block in blocks(part, "text") if re.match(r"8\d ", block)]
    ok, read, notification = (bytes.fromhex(re.sub("#.*", "", one)) for one in examples)
    assert msgpack.unpackb(ok) == {"type": "ok", "ref": "r1"}
    assert decode_packed_command(read).type is CommandType.READ
    assert f"This `notification` takes {len(notification)} bytes" in part
    message = unpacked(notification)
    assert shape(message) == shape(json.loads(made()["notification"]))
    assert f"\"id\": h'{message['notification']['id'].replace('-', '')}'" in part
    assert f"and its JSON {len(dumps(message).encode())}:" in part
    assert f"an array has at most {MAX_ARRAY} elements" in part


def test_the_documented_socket_limits_match_the_code() -> None:
    protocol = " ".join(text_of("docs/protocol.md").split())
    rate = Settings.model_fields["commands_per_second"].default
    assert f"A socket may send {rate} a second, plus a burst of {rate * COMMAND_BURST_SECONDS}" in protocol
    assert (
        f"All sockets of a user in one process may send {USER_SOCKETS_FACTOR} times as many together"
        in protocol
    )
    assert f"A frame or a message over {MAX_FRAME // 1024} KiB closes the socket with 1009" in protocol
    assert (
        f"not replied within {LINGER_SECONDS:g} s, and reads at most {MAX_UNCOUNTED_BYTES // 1024} KiB more"
        in protocol
    )


def test_the_documented_page_bounds_match_the_code() -> None:
    api = " ".join(text_of("docs/api.md").split())
    page = f"ends when its items take about {PAGE_BYTES // 2**20} MiB"
    assert api.count(page) == 2
    assert f"so it may hold up to {CHUNK - 1} more" in api
    assert f"for each full {MAX_PAGE} of its `limit`" in api
    assert f"long responses (over {SLICE_BYTES // 1024} KiB) to one user in memory" in api
    assert f"until these are read or cut off | {LONG_ANSWERS} |" in api
    assert f"inbox responses over {UNCOUNTED_BYTES // 1024} KiB that clients have not read yet" in api
    assert f"above {MAX_LONG_BYTES // 2**20} MiB pages are short (about {SLICE_BYTES // 1024} KiB)" in api
    assert f"| {MAX_ANSWER_BYTES // 2**20} MiB; over that, 503 `overloaded`. One network gets" in api
    assert (
        f"up to {MAX_WAITING_PAGES} more can wait, and beyond that pages are short | {MAX_PAGES_AT_ONCE} |"
        in api
    )


def test_the_documented_change_budget_matches_the_code() -> None:
    rate = int(SENT_ON_KIB * Settings.model_fields["commands_per_second"].default)
    limits = " ".join(text_of("docs/configuration.md").split())
    assert f"The budget of a user is {SENT_ON_KIB} KiB a second for each unit of" in limits
    assert f"by default {rate:,} KiB a second, plus a burst of {rate * 4:,} KiB" in limits
    factor = f"{SENT_ON_KIB} times `GATEWAY_COMMANDS_PER_SECOND`"
    row = f"| {rate:,} a second ({factor}), plus a burst of {rate * 4:,} |"
    assert row in text_of("docs/api.md")


def test_the_documented_bounds_for_lagging_clients_match_the_code() -> None:
    limits = " ".join(text_of("docs/configuration.md").split())
    burst = f"buffers {HIGH_WATER_BYTES // 1024} KiB and one burst of at most {BURST_BYTES // 1024} KiB"
    assert burst in limits
    assert f"the full buffers of all transports may together hold {MAX_UNSENT_BYTES // 2**20} MiB" in limits
    assert f"Above {MAX_LINGERING_BYTES // 2**20} MiB its connection ends without the close frame" in limits
    api = text_of("docs/api.md")
    assert (
        f"for all clients together | {MAX_UNSENT_BYTES // 2**20} MiB; over that, 4008. One network gets"
        in api
    )


PREFERENCES = dumps(
    {
        "categories": {"promo": {"muted": True}},
        "timezone": "UTC",
        "quiet_hours": [{"days": ["mon"], "from": "22:00", "until": "07:00"}],
        "quiet_until": None,
    }
)


def made() -> dict[str, bytes]:
    """Return one message of each type, as the gateway makes it."""
    counts = Counts(1, 1, 1, 0)
    item = encode_item(Item(Content("id", "t", None, "default", "normal", None, None, 0), 1, 1))
    all_of_them = [
        messages.hello("ada", "epoch", counts, 30, 0),
        messages.notification(item, 1, counts),
        messages.changed([item], 1, counts),
        messages.read_up_to(1, 1, counts),
        messages.seen(counts),
        messages.preferences(PREFERENCES),
        messages.reset("epoch", counts),
        messages.live(counts),
        messages.heartbeat(counts),
        messages.token_expiring(0),
        messages.ok("ref"),
        messages.error("code", "detail"),
        messages.close(4001, "token_revoked"),
    ]
    return {message.kind: message.payload for message in all_of_them}


def shape(value: Any) -> Any:
    """Return the names of what a JSON value is made of, without the values."""
    if isinstance(value, dict):
        return {name: None if name == "data" else shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else None


@pytest.mark.parametrize(
    "kind", sorted(set(re.findall(r'\bMessage\("(\w+)"', Path(messages.__file__).read_text())))
)
def test_every_message_has_an_example_with_exactly_its_fields(kind: str) -> None:
    examples = blocks(section(text_of("docs/protocol.md"), f"### {kind}"), "json")
    assert shape(json.loads(examples[0])) == shape(json.loads(made()[kind]))
    assert list(json.loads(examples[0])) == list(json.loads(made()[kind]))


# --- routes, commands, layers, links ------------------------------------------------------------------------


def test_every_route_is_documented() -> None:
    described = text_of("docs/api.md")
    for path, methods in create_app(settings_for("sqlite:///unused.db")).openapi()["paths"].items():
        for method in methods:
            wanted = rf"`[A-Z, ]*\b{method.upper()}\b[A-Z, ]* {re.escape(path)}`"
            assert re.search(wanted, described), f"{method.upper()} {path}"


def documented_commands() -> set[str]:
    """Return every `gateway …` that is to be typed, up to a pipe, a quote or a comment."""
    texts = [
        block for page in PAGES for kind in ("sh", "console") for block in blocks(page.read_text(), kind)
    ]
    typed = re.compile(r"(?:^|\$ |--no-dev |--extra postgres )gateway ([a-z][^|\n)#]*)", re.MULTILINE)
    return {found.strip() for text in texts for found in typed.findall(text)}


def test_the_search_for_documented_commands_finds_known_commands() -> None:
    assert {"serve --demo", 'key add "$CLIENT"', "check"} <= documented_commands()


@pytest.mark.parametrize("command", sorted(documented_commands()))
def test_every_documented_command_and_its_options_are_in_the_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = re.match(r"[a-z-]+(?: (?:add|list|delete|logout|rotate|disable|enable|password))?", command)
    assert words is not None
    assert run([*words[0].split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert [option for option in re.findall(r"--[a-z-]+", command) if option not in shown] == []


def test_the_readme_lists_every_command() -> None:
    rows = table(section(text_of("README.md"), "## Commands"))
    listed = [re.findall(r"`([^`]+)`", row[0]) for row in rows]
    # A row names a group once: `gateway user add`, `list`, …
    groups = {
        first.split()[1]: {first.split()[2], *more} for first, *more in listed if len(first.split()) > 2
    }
    alone = {first.split()[1] for first, *_ in listed if len(first.split()) == 2}
    assert alone == {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    assert groups == {
        str(group.name): {one.name for one in group.typer_instance.registered_commands}
        for group in app.registered_groups
        if group.typer_instance
    }


def test_the_readme_shows_the_demo_command_and_the_test_command() -> None:
    typed = "\n".join(blocks(text_of("README.md"), "sh")).splitlines()
    assert {
        "pip install uv && uv run --no-dev gateway serve --demo",
        "pip install uv && uv run pytest",
    } <= set(typed)


def test_the_architecture_page_lists_the_checked_layers_and_every_module() -> None:
    packages_section = section(text_of("docs/architecture.md"), "## The packages")
    layers, *packages = re.split(r"^### `([a-z/]+)`$", packages_section, flags=re.MULTILINE)
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    checked = [name for row in contracts[0]["layers"] for name in row.split(" | ")]
    assert [row[0].strip("`") for row in table(layers)] == checked
    ordered = layers.partition("within")[2].partition("against")[0]
    within = [f"gateway.{name}" for name in re.findall(r"`(\w+)`", ordered)]
    assert within == [one["containers"][0] for one in contracts[1:]]
    drawn = dict(zip(packages[::2], map(first_codes, packages[1::2]), strict=True))
    for folder, names in drawn.items():
        modules = {path.stem for path in (ROOT / "gateway" / folder).glob("*.py")}
        assert names | {"__init__"} == modules | {"__init__"}, folder
    folders = {str(path.parent.relative_to(ROOT / "gateway")) for path in (ROOT / "gateway").rglob("*.py")}
    assert set(drawn) == folders - {"."}


def test_every_test_named_in_the_docs_exists() -> None:
    named = {one for page in PAGES for one in re.findall(r"\b(test_\w+\.py)::(test_\w+)", page.read_text())}
    assert len(named) > 50
    texts = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not re.search(rf"^(async )?def {name}\(", texts.get(file, ""), re.MULTILINE)
    ]
    assert missing == []


def test_every_asvs_row_names_a_test_or_has_a_dash() -> None:
    rows = table(section(text_of("docs/security.md"), "## OWASP ASVS 5.0"))
    requirement = re.compile(r"V\d+\.\d+\.\d+(, V\d+\.\d+\.\d+)*( to V\d+\.\d+\.\d+)? \S")
    assert [row[0] for row in rows if not requirement.match(row[0])] == []
    # The table has a dash where the answer is the operator's, or no.
    assert [row[0] for row in rows if row[2] != "–" and "::test_" not in row[2]] == []  # noqa: RUF001


def test_every_threat_names_a_test_of_its_defence() -> None:
    rows = table(section(text_of("docs/security.md"), "## Threats and defences"))
    assert len(rows) > 30
    assert [row[0] for row in rows if "::test_" not in row[2]] == []


def test_every_event_of_the_audit_log_is_documented() -> None:
    assert first_codes(section(text_of("docs/security.md"), "## The audit log")) == set(Event)


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind `#` in a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_named_in_the_code_exists() -> None:
    files = [file for name in ("gateway", "tests", "benchmarks") for file in (ROOT / name).rglob("*.py")]
    named = {page for file in files for page in re.findall(r"docs/[\w/.-]+\.md", file.read_text())}
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


# --- the tour -----------------------------------------------------------------------------------------------


def shapes_in(text: str) -> list[Any]:
    """Return the shapes of the JSON objects that begin a line, or follow another one: curl ends no line."""
    found, decoder = [], json.JSONDecoder()
    for start in re.finditer(r"(?:^|(?<=\}))\{", text, re.MULTILINE):
        value, _ = decoder.raw_decode(text, start.start())
        found.append(shape(value))
    return found


async def test_the_readme_tour_runs_and_returns_the_output_it_shows(sqlite_url: str, tmp_path: Path) -> None:
    tour = section(text_of("README.md"), "## A tour in five minutes")
    async with process(sqlite_url, tmp_path) as (_, server):
        script = "set -eu\n" + "\n".join(blocks(tour, "sh"))
        script = script.replace("uv run --no-dev gateway", f"'{sys.executable}' -m gateway")
        script = script.replace("http://127.0.0.1:8000", server.base)
        environment = os.environ | {
            "GATEWAY_DATABASE_URL": sqlite_url,
            "GATEWAY_URL": server.base,
            "NO_PROXY": "*",
        }
        done = subprocess.run(  # noqa: ASYNC221 - the gateway is another process
            ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    shown = [one for block in blocks(tour, "json") for one in shapes_in(block)]
    answers = shapes_in(done.stdout)
    assert [one for one in shown if one not in answers] == []
    assert "idempotent-replayed: true" in done.stdout
    assert "Sessions ended" in done.stdout


# --- signing users in -------------------------------------------------------------------------------------


async def test_the_sign_in_examples_run(sqlite_url: str, tmp_path: Path) -> None:
    page = text_of("docs/auth.md")
    python = "\n".join(blocks(page, "python"))
    calls = """
import json
assert token_for("ada").keys() == {"access_token", "token_type", "expires_in", "scope"}
assert token_for("ada")["expires_in"] == 900
sign_out("ada"), sign_out("nobody")
session = json.load(open("signed-in-again.json"))
assert refresh(refresh(session))["refresh_token"]
too_long = "a" * 256
calls = {"invalid_grant: ": lambda: refresh(session), "validation_error: ": lambda: token_for(too_long)}
for start, refused_call in calls.items():
    try:
        refused_call()
    except httpx.HTTPStatusError as refused:
        assert str(refused).startswith(start), str(refused)
    else:
        raise AssertionError("it was not refused")
"""
    (tmp_path / "backend.py").write_text(python + calls)
    again = 'curl -s "$GATEWAY_URL/v1/auth/token" -d grant_type=password -d username=carol '
    again += '--data-urlencode "password=$PASSWORD" > signed-in-again.json\n'
    async with process(sqlite_url, tmp_path) as (_, server):
        script = "set -eu\n" + "\n".join(blocks(page, "sh")) + again
        script += f"'{sys.executable}' backend.py\n"
        # What the command line has ended a gateway knows of within a second.
        script = re.sub(r"(gateway user password .*\n)", r"\1sleep 1\n", script)
        script = script.replace("uv run --no-dev gateway", f"'{sys.executable}' -m gateway")
        script = script.replace("http://127.0.0.1:8000", server.base)
        environment = os.environ | {"GATEWAY_DATABASE_URL": sqlite_url, "NO_PROXY": "*"}
        done = subprocess.run(  # noqa: ASYNC221 - the gateway is another process
            ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    answers = shapes_in(done.stdout)
    shown = [one for block in blocks(page, "json") for one in shapes_in(block)]
    assert [one for one in shown if one not in answers] == [], done.stdout
    assert done.stdout.count('"items":[]') == 2, (
        "the token that was minted and the one refreshed open an inbox"
    )
    assert '"code":"token_revoked"' in done.stdout, "and once signed out, they do not"
