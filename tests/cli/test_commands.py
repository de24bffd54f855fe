"""What commands load, the passwords that they set, and the sockets that they show."""

import asyncio
import getpass
import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gateway import cli
from gateway.auth.signing import MAX_TTL
from gateway.cli import client, messages
from gateway.cli.client import ClientError
from gateway.errors import TokenExpired
from gateway.observability.audit import Event
from tests.support.commands import RunCommand
from tests.support.servers import LocalServer, StartServer
from tests.support.trail import Trail
from tests.support.waiting import until

HEAVY = ("sqlalchemy", "alembic", "fastapi", "uvicorn", "websockets", "httpx")
PASSWORD = "a long and odd pass phrase"


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """The heavy modules that are loaded when a command has printed its help, by the command."""
    program = (
        "import contextlib, io, json, sys\n"
        "from gateway.cli import app, run\n"
        "groups = [[one.name, *[c.name for c in one.typer_instance.registered_commands]]"
        " for one in app.registered_groups]\n"
        "names = [[c.name or c.callback.__name__] for c in app.registered_commands]\n"
        "names += [[group, name] for group, *rest in groups for name in (None, *rest)]\n"
        "found = {}\n"
        "for name in [[], ['--version'], *names]:\n"
        "    words = [one for one in name if one]\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        code = run([*words, *([] if '--version' in words else ['--help'])])\n"
        "    assert code == 0 and said.getvalue(), words\n"
        f"    found[' '.join(words)] = [one for one in {HEAVY!r} if one in sys.modules]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_printing_help_loads_no_heavy_modules(loaded: dict[str, list[str]]) -> None:
    assert {
        "",
        "--version",
        "send",
        "tail",
        "serve",
        "user",
        "user add",
        "signing-key rotate",
    } <= loaded.keys()
    assert {name: heavy for name, heavy in loaded.items() if heavy} == {}


def test_the_maximum_token_ttl_in_the_help_matches_the_limit() -> None:
    assert messages.MAX_TTL_SECONDS == MAX_TTL


# --- passwords ----------------------------------------------------------------------------------------------


def set_settings(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", url)


async def test_setting_a_password_on_the_command_line_ends_open_sessions(
    server: LocalServer,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trail: Trail,
) -> None:
    set_settings(monkeypatch, database_url, tmp_path)
    bob = await server.user("bob")
    assert (await bob.get("/v1/inbox")).status_code == 200
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{PASSWORD}\nnot this\n".encode())))
    assert await asyncio.to_thread(cli.run, ["user", "password", "bob"]) == 0
    assert capsys.readouterr().out == "Set the password of bob. Sessions ended: 1.\n"

    async def is_out() -> bool:
        return (await bob.get("/v1/inbox")).status_code == 401

    await until(is_out, "the session has ended")
    form = {"grant_type": "password", "username": "bob", "password": PASSWORD}
    assert (await server.http.post("/v1/auth/token", data=form)).status_code == 200
    (changed,) = trail.of(Event.USER_CHANGED)
    assert (changed["subject"], changed["source"], changed["changed"]) == ("user:bob", "cli", ["password"])


def test_an_interactive_password_is_typed_twice(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_settings(monkeypatch, sqlite_url, tmp_path)
    assert cli.run(["user", "add", "bob"]) == 0
    typed: list[str] = []
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _: typed.pop(0))
    typed += [PASSWORD, "another"]
    assert cli.run(["user", "password", "bob"]) == 2
    assert "the two passwords differ: nothing was changed, try again" in capsys.readouterr().err
    typed += [PASSWORD, PASSWORD]
    assert cli.run(["user", "password", "bob"]) == 0
    typed += ["password1234", "password1234"]
    assert cli.run(["user", "password", "bob"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("gateway: the password: it is a common one")
    typed += [PASSWORD, PASSWORD]
    assert cli.run(["user", "password", "ada"]) == 1
    assert "There is no such user: 'ada'" in capsys.readouterr().err
    assert typed == []


def test_a_password_is_never_a_command_line_argument(run_command: RunCommand) -> None:
    done = run_command("user", "password", "bob", PASSWORD)
    assert done.returncode == 2
    assert PASSWORD not in run_command("user", "password", "--help").stdout


# --- services -----------------------------------------------------------------------------------------------


async def test_service_add_with_key_creates_a_key_that_can_post(
    server: LocalServer,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_settings(monkeypatch, database_url, tmp_path)
    command = ["service", "add", "shop", "--scope", "notify", "--with-key"]
    assert await asyncio.to_thread(cli.run, command) == 0
    made = json.loads(capsys.readouterr().out)
    assert made.keys() == {"client_id", "name", "scopes", "created_at", "client_secret", "key_id", "key"}
    monkeypatch.setenv("GATEWAY_KEY", made["key"])
    assert await asyncio.to_thread(cli.run, ["send", "ada", "Hello", "--server", server.base]) == 0
    assert json.loads(capsys.readouterr().out)["recipients"] == 1
    assert await asyncio.to_thread(cli.run, ["key", "list", "shop"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == made["key_id"]


# --- tail ---------------------------------------------------------------------------------------------------


async def test_tail_needs_no_token_on_the_gateways_machine(
    server: LocalServer,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_settings(monkeypatch, database_url, tmp_path)
    monkeypatch.setenv("GATEWAY_PORT", server.base.rpartition(":")[2])
    await server.service.notify("ada", "Lunch is ready")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "tail", "ada"), stdout=asyncio.subprocess.PIPE, stderr=None
    )
    try:
        assert process.stdout is not None
        lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
    finally:
        process.kill()
        await process.communicate()
    assert [one["type"] for one in lines] == ["hello", "notification"]
    assert lines[1]["notification"]["title"] == "Lunch is ready"


async def test_tail_exits_if_stdout_cannot_be_written(server: LocalServer) -> None:
    tail = f"exec {sys.executable} -m gateway tail --token - --server {server.base} >/dev/full"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", tail, stdin=pipe, stderr=pipe)
    token = await server.service.mint("ada")
    _, said = await asyncio.wait_for(process.communicate(token.encode()), 30)
    assert (process.returncode, said.decode()) == (1, "gateway: stdout: No space left on device\n")


def test_tail_of_an_unknown_user_creates_no_user(sqlite_url: str, run_command: RunCommand) -> None:
    done = run_command("tail", "nobody", database_url=sqlite_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such user: 'nobody'" in done.stderr
    assert "nobody" not in run_command("user", "list", database_url=sqlite_url).stdout


async def test_tail_explains_a_refusal_and_says_what_to_do(
    start_server: StartServer, subtests: pytest.Subtests
) -> None:
    server = await start_server(max_sockets_per_user=1)
    ada = await server.user()
    revoked = "the token has been revoked, for example by signing out"
    anew = "get a new one, for example with `gateway token SUB` on the gateway's machine"
    await server.service.delete("/v1/users/ada/sessions")
    cases = {
        str(ada.token): f"{revoked}: {anew} (closed with 4001 token_revoked)",
        "nonsense": f"the token is not valid at this gateway: {anew} (closed with 4001 invalid_token)",
        str(server.service.token): f"a user's token is needed, not a service's: {anew} (closed with 4003 ",
        "": "a user's token is needed: gateway tail SUB, or GATEWAY_TOKEN (closed with 4001 missing_token)",
    }
    for token, said in cases.items():
        with subtests.test(said), pytest.raises(ClientError) as caught:
            await client.tail(server.base, token, lambda _: None, lambda _: None)
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize("rest", ["/v1", "/v1/", "/v1/notifications"])
async def test_a_gateway_address_that_includes_v1_is_refused(server: LocalServer, rest: str) -> None:
    said = f"^GATEWAY_URL or --server: it must end before /v1: {server.base}$"
    with pytest.raises(ClientError, match=said):
        await client.tail(f"{server.base}{rest}", "t", lambda _: None, lambda _: None)
    with pytest.raises(ClientError, match=said):
        await asyncio.to_thread(client.send, f"{server.base}{rest}", "k", {})


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, '{"detail":"Not Found"}', "this is not a gateway"),
        (422, '{"code":1,"detail":[]}', "this is not a gateway"),
        (404, "[]", "this is not a gateway"),
        (200, "{}", "this is not a gateway"),
        (200, "[" * 100_000, "this is not a gateway"),
        (501, "<h1>Unsupported method</h1>", "this is not a gateway"),
        (502, "<h1>Bad Gateway</h1>", "HTTP 502"),
        (503, '{"message":"no upstream"}', "HTTP 503"),
    ],
)
async def test_an_error_from_a_server_that_is_not_a_gateway_says_so(
    status: int, body: str, said: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
        with suppress(ConnectionError):
            writer.write_eof()
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        address = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        with pytest.raises(ClientError) as caught:
            await asyncio.to_thread(client.send, address, "k", {})
        assert str(caught.value) == f"{address}: {said}"
        if 400 <= status < 502:
            with pytest.raises(ClientError) as caught:
                await client.tail(address, "t", lambda _: None, lambda _: None)
            assert str(caught.value) == f"{address}: refused with HTTP {status}: {said}"


async def test_tail_reconnects_with_a_new_token_after_the_old_one_expires(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await server.user()
    old = await server.service.mint("ada", ttl=60)
    verify = server.state.tokens.verify

    async def expired(token: str) -> object:
        if token == old:
            raise TokenExpired
        return await verify(token)

    monkeypatch.setattr(server.state.tokens, "verify", expired)
    monkeypatch.setattr(client, "MAX_PAUSE_SECONDS", 0.0)
    seen: list[str] = []
    notes: list[str] = []

    async def renew() -> str:
        return str(ada.token)

    tail = asyncio.create_task(
        client.tail(server.base, old, lambda one: seen.append(one["type"]), notes.append, renew)
    )
    await until(lambda: "live" in seen, "the new token is taken")
    assert notes == ["closed with 4001 token_expired; connecting again"]
    tail.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tail
