"""What the environment may hold: none of it ends the gateway, is a traceback, or shows a secret."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import structlog
from dotenv.parser import parse_stream
from sqlalchemy.engine import make_url

from gateway import __version__, cli
from gateway.auth import issuer_keys, issuers
from gateway.auth.limits.counters import Shared
from gateway.cli import client, failures
from gateway.cli.client import ClientError
from gateway.database.database import name_of
from gateway.errors import Unavailable
from gateway.jobs.background import every
from gateway.observability.reasons import reason
from gateway.settings import SettingsError, load_settings
from gateway.settings.redis_url import check_redis_url
from gateway.settings.trusted_issuer import TrustedIssuer
from tests.support.commands import Here, RunCommand
from tests.support.postgres import free_port
from tests.support.waiting import until

PROXIES = [
    ("NO_PROXY", "localhost,127.0.0.1,fd00::/8"),
    ("NO_PROXY", "localhost,[::1]"),
    ("ALL_PROXY", "socks5://user:secret-of-mine@127.0.0.1:1080"),
    ("HTTPS_PROXY", "socks5h://user:secret-of-mine@127.0.0.1:1080"),
    ("HTTPS_PROXY", "http://[::1"),
    ("SSL_CERT_FILE", "/nonexistent/ca.pem"),
]
ELSEWHERE = "https://login.invalid/jwks.json"

# --- proxies and certificates -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), PROXIES)
async def test_issuer_keys_are_fetched_again_despite_invalid_environment_variables(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(issuer_keys, "MIN_FETCH_INTERVAL_SECONDS", 0.01)
    trusted = TrustedIssuer(issuer="https://login.invalid/", audience="n", jwks_url=ELSEWHERE)
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(issuers.Issuers([trusted]).run())
        try:
            await until(lambda: len(logged) > 1, "it was asked twice")
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert {one["event"] for one in logged} == {"an issuer's keys cannot be fetched"}
    assert "secret-of-mine" not in str(logged)


@pytest.mark.parametrize(("name", "value"), PROXIES)
def test_send_reports_an_invalid_environment_variable_in_one_line(
    here: Here, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    code, said = here("send", "ada", "Hello", url="https://gateway.invalid", key="k" * 20)
    assert (code, said.count("\n")) == (1, 1)
    assert "look at" in said
    assert name in said
    assert "secret-of-mine" not in said


@pytest.mark.parametrize(
    "value", ["socks5h://user:secret-of-mine@127.0.0.1:1080", "ftp://secret-of-mine@host:1"]
)
def test_tail_reports_an_invalid_environment_variable_in_one_line(
    here: Here, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    code, said = here("tail", url="https://gateway.invalid", token="t" * 20)
    assert (code, said.count("\n")) == (1, 1)
    assert "HTTPS_PROXY" in said
    assert "secret-of-mine" not in said


@pytest.mark.parametrize("value", ["http://h:abc", "http://[::1", "http://x..y", "http://h:99999"])
@pytest.mark.parametrize("command", [["send", "ada", "Hello"], ["tail"]], ids=["send", "tail"])
def test_an_invalid_proxy_url_is_reported_with_its_variable_and_the_rule(
    here: Here, command: list[str], value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    code, said = here(*command, url="https://gateway.invalid", key="k" * 20, token="t" * 20)
    assert (code, said.count("\n")) == (1, 1)
    assert "HTTPS_PROXY: it must be a URL such as http://proxy.example.com:3128" in said


@pytest.mark.parametrize("command", [["send", "ada", "Hello"], ["tail"]], ids=["send", "tail"])
def test_an_unwritable_tls_key_log_is_reported_with_its_variable(
    here: Here, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
    monkeypatch.setenv("SSL_CERT_DIR", "/etc/ssl/certs")
    code, said = here(*command, url="https://127.0.0.1:1", key="k" * 20, token="t" * 20)
    assert (code, said.count("\n")) == (1, 1)
    assert "SSLKEYLOGFILE: the file cannot be written to: No such file or directory" in said
    assert "SSL_CERT_DIR" not in said


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server",
    [
        "localhost:8000",
        "ftp://host",
        "http://host:99999",
        "http://host:port",
        "http://[::1",
        "http://::1:8000",
        "http://me:secret-of-mine@host",
        "http://host/?a=b",
        "http://",
        "",
    ],
)
@pytest.mark.parametrize("command", [["send", "ada", "Hello"], ["tail"]], ids=["send", "tail"])
def test_an_invalid_server_address_gets_a_one_line_error_that_names_the_setting(
    here: Here, command: list[str], server: str
) -> None:
    code, said = here(*command, "--server", server, key="k" * 20, token="t" * 20)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("gateway: GATEWAY_URL or --server: it must be a URL such as")
    assert "secret-of-mine" not in said


@pytest.mark.parametrize("server", ["http://x..y", "http://-x", "http://" + "x" * 64, "http://a b"])
@pytest.mark.parametrize("command", [["send", "ada", "Hello"], ["tail"]], ids=["send", "tail"])
def test_an_invalid_host_name_is_reported_as_invalid(here: Here, command: list[str], server: str) -> None:
    code, said = here(*command, "--server", server, key="k" * 20, token="t" * 20)
    assert (code, said) == (2, "gateway: GATEWAY_URL or --server: its host is not a valid host name\n")


@pytest.mark.parametrize("server", ["HTTP://127.0.0.1:8000/", "http://[::1]:8000", "https://host/notify/"])
def test_a_server_address_may_have_a_scheme_in_any_case_and_a_path(server: str) -> None:
    assert client._address(server) == server.replace("HTTP", "http").rstrip("/")


# --- keys and tokens ----------------------------------------------------------------------------------------


@contextmanager
def _once_refusing() -> Iterator[tuple[str, list[bytes]]]:
    """Answer one request with 401, and keep its head."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heads.append(connection.recv(65536))
                connection.sendall(
                    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
                )

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join()


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t"])
@pytest.mark.parametrize("command", [["send", "ada", "Hello"], ["tail"]], ids=["send", "tail"])
def test_trailing_whitespace_is_removed_from_a_secret(here: Here, command: list[str], end: str) -> None:
    secret = "ngk_secret-of-mine"
    with _once_refusing() as (server, heads):
        code, said = here(*command, "--server", server, key=secret + end, token=secret + end)
    assert code == 1
    assert f"Bearer {secret}\r\n".encode() in heads[0]
    assert "secret-of-mine" not in said


@pytest.mark.parametrize(
    "secret", ["secret-of-\nmine", "secret of mine", "secret-öf-mine", "secret-of-\0mine"]
)
@pytest.mark.parametrize("command", [["send", "ada", "Hello"], ["tail"]], ids=["send", "tail"])
def test_an_invalid_secret_is_never_printed(
    here: Here, command: list[str], secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = here(*command, "--key" if "send" in command else "--token", secret)
    assert (code, said.count("\n")) == (2, 1)
    assert "it holds a space, a line break or a letter beyond ASCII" in said
    assert "mine" not in said


def test_an_error_reason_contains_no_text_of_the_exception() -> None:
    assert reason(ValueError("secret-of-mine")) == "ValueError"
    assert reason(httpx.ReadTimeout("secret-of-mine")) == "there was no answer in time"
    error = httpx.ConnectError("secret-of-mine")
    error.__cause__ = ConnectionRefusedError(111, "secret-of-mine")
    assert reason(error) == "Connection refused"


def test_send_reports_an_unreachable_server_with_the_system_error() -> None:
    server = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ClientError, match=rf"^{server}: Connection refused\. GATEWAY_URL or --server says"):
        client.send(server, "k", {})


async def test_tail_names_the_address_of_an_unreachable_server() -> None:
    server = f"http://127.0.0.1:{free_port()}"
    notes: list[str] = []
    tail = asyncio.create_task(client.tail(server, "t", lambda _: None, notes.append))
    await until(lambda: notes, "it was tried")
    tail.cancel()
    await asyncio.gather(tail, return_exceptions=True)
    way_out = "GATEWAY_URL or --server says where the gateway is; connecting again"
    assert notes == [f"{server}: Connection refused. {way_out}"]


def test_the_error_for_a_port_in_use_says_what_to_do(here: Here) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = here("serve", port=str(port))
    where = f"127.0.0.1:{port} (Address already in use)"
    other_port = port + 1 if port < 65535 else port - 1
    way_out = f"stop what listens there, or take another port: --port {other_port}"
    assert (code, said) == (
        2,
        f"gateway: GATEWAY_HOST, GATEWAY_PORT: cannot listen on {where}: {way_out}\n",
    )


# --- Postgres -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@of-mine@127.0.0.1:1/x", "write @ as %40"),
        ("postgres://u:of-mine@host-mine/x@127.0.0.1/x", "write @ as %40"),
        ("postgresql://u:secret/of-mine@more@127.0.0.1:1/x", "write @ as %40"),
        ("postgresql://u:secret@127.0.0.1/x?passfile=/of@mine", "write @ as %40"),
        ("postgresql://u:%ECof-mine@127.0.0.1/x", "% as %25"),
        ("postgresql://u:of-mine@127.0.0.1:1/x?port=mine", "its port must be a number from 1 to 65,535"),
        ("postgresql://u:of-mine@127.0.0.1:1/x?port=5432,70000", "its port must be a number"),
        ("postgresql://u:of-mine@127.0.0.1:70000/x", "its port must be a number from 1 to 65,535"),
        ("postgresql://u:of-mine@127.0.0.1:1/x?target_session_attrs=x", "any, primary, standby, "),
        ("postgresql://u:of-mine@127.0.0.1:1/x?sslmode=x", "'sslmode' must be one of disable, allow, "),
        ("postgresql://u:of-mine@/x?host=h1:1&host=h2", "write ?host=one:5432&host=two:5432"),
        ("postgresql://u:of-mine@127.0.0.1:1/x?password=of-mine", "'password' is not known"),
        ("postgresql://u:of-mine%00@127.0.0.1:1/x", "it must hold no null character (%00)"),
        ("sqlite:///a%00b", "it must hold no null character (%00)"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["user", "list"]], ids=["check", "list"])
def test_a_database_url_that_its_driver_cannot_use_gets_a_one_line_error(
    here: Here, command: list[str], url: str, said: str
) -> None:
    code, text = here(*command, database_url=url)
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("gateway: GATEWAY_DATABASE_URL: ")
    assert said in text
    assert "mine" not in text


@pytest.mark.parametrize("password", ["se/cret", "se:cret", "se#cret", "se?cret", "se cret", "se%2Fcret"])
def test_a_database_password_is_passed_encoded_and_never_shown(password: str) -> None:
    url = load_settings(database_url=f"postgresql://u:{password}@127.0.0.1:1/x?sslmode=require").database_url
    assert unquote(urlsplit(url).password or "") == unquote(password)
    assert (urlsplit(url).hostname, urlsplit(url).port, urlsplit(url).path) == ("127.0.0.1", 1, "/x")
    assert name_of(make_url(url)) == "postgresql://u:***@127.0.0.1:1/x?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@server:p@127.0.0.1:5432/x",
        "postgresql:///x?host=/run/postgresql&port=5433",
        "postgresql://u:p@/x?host=one:5432&host=two:5432&target_session_attrs=primary",
        "postgresql://u:p@[::1]:5432/x",
    ],
)
def test_a_valid_postgres_url_is_accepted(url: str) -> None:
    assert make_url(load_settings(database_url=url).database_url) == make_url(url)


@pytest.mark.parametrize(("name", "value"), [("PGPORT", "abc"), ("PGTARGETSESSIONATTRS", "x")])
def test_an_invalid_postgres_variable_is_named_in_a_one_line_error(
    here: Here, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database.postgres.RETRY_SECONDS", 0)
    monkeypatch.setenv(name, value)
    code, text = here("check", database_url="postgresql://u:of-mine@127.0.0.1/x")
    (line,) = [one for one in text.splitlines() if one.startswith("gateway: ")]
    why = f"its driver cannot use the URL or the environment: look at {name}"
    assert (code, line) == (2, f"gateway: GATEWAY_DATABASE_URL: the database cannot be used ({why})")
    assert "of-mine" not in text


def test_check_reports_an_unreachable_postgres_with_the_system_error(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database.postgres.RETRY_SECONDS", 0)
    code, text = here("check", database_url=f"postgresql://u@127.0.0.1:{free_port()}/x")
    assert code == 2
    assert text.endswith("the database cannot be used (Connection refused)\n")


# --- Redis --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret/of-mine@host:6379/0",
        "redis://:12/secret-of-mine@host/0",
        "redis://:secret?of-mine@host",
        "redis://:secret#of-mine@host",
        "redis://host/zero",
        "redis://host/0?timeout=5",
        "redis://host/0?secret-of-mine=1",
        "redis://host/0?ssl_cert_reqs=none",
        "rediss://host/0?ssl_cert_reqs=secret-of-mine",
        "redis://host/0?db=zero",
        "redis://host/0?protocol=9",
        "redis://",
        "http://host",
    ],
)
@pytest.mark.parametrize("setting", ["backplane_url", "rate_limit_url"])
def test_a_redis_url_that_its_driver_cannot_use_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, setting: str, url: str
) -> None:
    monkeypatch.setenv(f"GATEWAY_{setting.upper()}", url)
    with pytest.raises(SettingsError, match=rf"^GATEWAY_{setting.upper()}: ") as caught:
        load_settings()
    if "?" not in url:
        assert "of-mine" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:p%2Fss@[::1]:6379/15",
        "rediss://host/0?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem",
        "redis://host?db=3&health_check_interval=30",
    ],
)
def test_a_valid_redis_url_is_accepted(url: str) -> None:
    check_redis_url(url)


async def test_an_unexpected_error_of_the_redis_driver_does_not_fail_a_sign_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Shared("redis://127.0.0.1:1/0")

    async def choke(*_: Any) -> int:
        raise TypeError("secret-of-mine")

    monkeypatch.setattr(shared._redis, "incr", choke)
    with structlog.testing.capture_logs() as logged:
        assert await shared.incr("key", 60) == 1
    assert [one["reason"] for one in logged] == ["TypeError"]
    await shared.close()


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("GATEWAY_ISSUER=Grüße\n".encode("latin-1"), ".env: line 1 is not UTF-8"),
        (b"A=1\nGATEWAY_ISSUER=\xff\n", ".env: line 2 is not UTF-8"),
        ("GATEWAY_PORT=1\n".encode("utf-16"), ".env: it is UTF-16"),
        ("GATEWAY_PORT=1\n".encode("utf-16-le"), ".env: it holds null characters"),
    ],
)
@pytest.mark.parametrize("command", ["check", "migrate"])
def test_an_env_file_that_is_not_utf_8_gets_a_one_line_error(
    here: Here, command: str, content: bytes, said: str
) -> None:
    Path(".env").write_bytes(content)
    code, text = here(command)
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith(f"gateway: {said}")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("A=1\nGATEWAY_PORT 8001\n", 2),
        ("A=1\r\n\r\n\r\nGATEWAY_JWT_SECRET 'secret-of-mine'\r\n", 4),
        ('GATEWAY_PORT="8001" secret-of-mine\n', 1),
        ("GATEWAY_PORT: 8001\n", 1),
        ("GATEWAY_PORT:8001\n", 1),
        ("\n  \nGATEWAY_PORT\n", 3),
        ("export GATEWAY_PORT # secret-of-mine\n", 1),
        ("=secret-of-mine", 1),
        ("A=1\nFOO\n", 2),
        ('{"GATEWAY_PORT":1}\n', 1),
    ],
)
@pytest.mark.parametrize("command", ["check", "migrate", "tail"])
def test_an_invalid_line_of_the_env_file_is_named_and_not_shown(
    here: Here, command: str, content: str, line: int, caplog: pytest.LogCaptureFixture
) -> None:
    Path(".env").write_text(content, newline="")
    assert here(command) == (2, f"gateway: .env: line {line}: it must be NAME=VALUE\n")
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('# mine\nGATEWAY_JWT_SECRET="secret-of-mine\nGATEWAY_PORT=8001\n', 2),
        ("GATEWAY_JWT_SECRET='secret-of-mine\nGATEWAY_ISSUER='me'\n", 1),
        ("\n\nexport GATEWAY_JWT_SECRET = 'secret-of-mine\n", 3),
        ('GATEWAY_JWT_SECRET="secret-of-mine\\"\n', 1),
        ('GATEWAY_JWT_SECRET="', 1),
    ],
)
def test_an_unclosed_quote_in_the_env_file_is_called_one(here: Here, content: str, line: int) -> None:
    Path(".env").write_text(content)
    assert here("check") == (2, f"gateway: .env: line {line}: a quote is not closed\n")


def test_an_env_file_may_have_comments_blank_lines_and_other_names(
    run_command: RunCommand,
) -> None:
    Path(".env").write_text(
        "# mine\n\nOF_ANOTHER=1\nexport GATEWAY_ISSUER = 'me' # not you\n"
        'GATEWAY_AUDIENCE="two\nlines of ${GATEWAY_ISSUER}"\nGATEWAY_ALOWED_ORIGINS=\n'
    )
    done = run_command("check")
    assert (done.returncode, "GATEWAY_ALOWED_ORIGINS is not a setting" in done.stderr) == (0, True)
    found = [done.environment[name] for name in ("GATEWAY_ISSUER", "GATEWAY_AUDIENCE")]
    assert found == ["me", "two\nlines of me"]


def test_a_pipe_as_the_env_file_is_refused_without_waiting(here: Here) -> None:
    os.mkfifo(".env")
    said = "gateway: .env: it is not a regular file: put NAME=VALUE lines into one\n"
    # Whoever would read it is let go by this: a test that fails does not hang.
    writer = threading.Timer(20, lambda: Path(".env").write_text(""))
    writer.start()
    try:
        assert here("check") == (2, said)
    finally:
        writer.cancel()


def test_the_dotenv_parser_reports_the_broken_line() -> None:
    # `dotenv.parser` is not what python-dotenv documents: its version is bounded in pyproject.toml.
    good, broken = parse_stream(StringIO("A=1\nB 2\n"))
    assert (good.key, good.value, good.error, good.original) == ("A", "1", False, ("A=1\n", 1))
    assert (broken.key, broken.value, broken.error, broken.original) == (None, None, True, ("B 2\n", 2))


def test_an_unreadable_env_file_gets_a_one_line_error(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("GATEWAY_PORT=1\n")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert here("check") == (2, "gateway: .env: it cannot be read: Permission denied\n")


def test_a_byte_order_mark_does_not_hide_the_first_setting_of_the_env_file(here: Here) -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfGATEWAY_PORT=many\n")
    assert here("check")[1].startswith("gateway: GATEWAY_PORT: ")


def test_an_inaccessible_home_directory_is_not_used(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nowhere/of/another")
    done = run_command("check")
    assert (done.returncode, done.environment["HOME"]) == (0, "/nonexistent")


# --- background ---------------------------------------------------------------------------------------------


async def test_a_failing_background_task_logs_once_and_retries() -> None:
    asked: list[int] = []

    async def look() -> None:
        asked.append(1)
        raise Unavailable("The database cannot be used now.")

    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(every(0.001, look))
        await until(lambda: len(asked) > 2, "it was tried again")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [one["event"] for one in logged] == ["a background task failed, and continues"]


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["send", "ada", "-5 °C outside"], ["send", "ada", "--", "-5 °C outside"]),
        (
            ["send", "ada", "- item", "--body", "-1 left"],
            ["send", "ada", "--body", "-1 left", "--", "- item"],
        ),
        (["send", "ada", "--", "--help"], ["send", "ada", "--", "--help"]),
        (["send", "ada", "Hello", "--urgent"], ["send", "ada", "Hello", "--urgent"]),
        (["user", "add", "-5 °C"], ["user", "add", "-5 °C"]),
    ],
)
def test_a_title_may_begin_with_a_hyphen(given: list[str], understood: list[str]) -> None:
    assert cli._titles_last(given) == understood


@pytest.mark.parametrize(
    "command",
    [["send", "ada", "-title"], ["user", "add", "-ada"], ["service", "add", "-shop"], ["tail", "-a"]],
)
def test_an_argument_mistaken_for_an_option_gets_the_double_hyphen_hint(
    here: Here, command: list[str]
) -> None:
    code, said = here(*command)
    assert (code, said.count("\n")) == (2, 1)
    assert "No such option" in said
    assert said.endswith(" --help). Put -- before an argument that begins with a hyphen\n")


def test_a_command_without_arguments_gets_no_double_hyphen_hint(here: Here) -> None:
    assert "hyphen" not in here("migrate", "-x")[1]


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_printed(here: Here, flag: str) -> None:
    assert here(flag) == (0, f"gateway {__version__}\n")


@pytest.mark.parametrize("command", [[], ["user"], ["user", "add"], ["serve"]])
def test_the_h_option_prints_the_help(here: Here, command: list[str]) -> None:
    code, said = here(*command, "-h")
    assert code == 0
    assert "Usage: " in said


@pytest.mark.parametrize(
    ("module", "extra"), [("asyncpg", "postgres"), ("redis.asyncio", "redis"), ("opentelemetry.sdk", "otel")]
)
def test_a_missing_driver_names_the_extra_that_has_it(module: str, extra: str) -> None:
    said = failures.explain(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert f"the extra {extra}: uv run --extra {extra} " in said


def test_a_misspelled_setting_gets_a_warning_that_hides_its_value(here: Here) -> None:
    code, said = here("check", alowed_origins="secret-of-mine", metric_token="x", url="http://h", key="k")
    assert code == 0
    assert "gateway: GATEWAY_ALOWED_ORIGINS is not a setting: did you mean GATEWAY_ALLOWED_ORIGINS?\n" in said
    assert "did you mean GATEWAY_METRICS_TOKEN?" in said
    assert said.count("is not a setting") == 2
    assert "secret-of-mine" not in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GATEWAY_FOO", ""),
        ("gateway_prot", ": did you mean GATEWAY_PORT?"),
        ("Gateway_Heartbeet", ": did you mean GATEWAY_HEARTBEAT?"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True], ids=["environment", "file"])
def test_an_unknown_setting_gets_a_warning_that_suggests_only_similar_names(
    here: Here, name: str, hint: str, from_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    if from_file:
        monkeypatch.delenv(name)
        Path(".env").write_text(f"{name}=1\n")
    code, said = here("check")
    assert (code, f"gateway: {name} is not a setting{hint}\n" in said) == (0, True)


def test_an_environment_setting_overrides_the_env_file_in_any_case(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ISSUER", "of-the-environment")
    Path(".env").write_text("gateway_issuer=of-the-file\n")
    assert here("check")[0] == 0
    assert load_settings().issuer == "of-the-environment"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"jwk_url": ELSEWHERE}, "0.jwk_url: there is no such member: did you mean jwks_url?"),
        ({"jwks_url": "https://[::1"}, "0.jwks_url: it must be a URL such as https://login.example.com/"),
        ({"jwks_url": "https://h:99999/x"}, "0.jwks_url: it must be a URL such as https://login.example"),
        ({"jwks_url": "https://h:x/x"}, "0.jwks_url: it must be a URL such as https://login.example.com/"),
    ],
)
def test_an_invalid_trusted_issuer_gets_a_one_line_error(
    here: Here, members: dict[str, str], said: str
) -> None:
    code, text = here("check", trusted_issuers=json.dumps([{"issuer": "a", "audience": "b"} | members]))
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith(f"gateway: GATEWAY_TRUSTED_ISSUERS: {said}")


def test_check_prints_the_url_of_the_keys_without_its_query(here: Here) -> None:
    url = f"http://127.0.0.1:{free_port()}/jwks.json"
    issuer = {"issuer": "a", "audience": "b", "jwks_url": f"{url}?key=secret-of-mine"}
    code, said = here("check", trusted_issuers=json.dumps([issuer]))
    assert (code, f"cannot fetch the keys at {url}" in said) == (1, True)
    assert "secret-of-mine" not in said


def test_kubernetes_variables_of_a_service_named_gateway_are_not_settings(here: Here) -> None:
    code, said = here(
        "check",
        service_host="10.0.0.1",
        service_port="80",
        service_port_http="80",
        port="tcp://10.0.0.1:80",
        port_80_tcp="tcp://10.0.0.1:80",
        port_80_tcp_addr="10.0.0.1",
        db_port="tcp://10.0.0.2:5432",
        db_service_port="5432",
    )
    assert (code, "is not a setting" in said) == (0, False)


def test_a_key_can_be_added_by_a_unique_service_name(here: Here) -> None:
    _, made = here("service", "add", "shop", "--scope", "notify", "--create")
    assert here("key", "add", "shop")[0] == 0
    assert here("key", "list", "shop")[1].count('"id"') == 1
    here("service", "add", "shop", "--scope", "notify")
    code, said = here("key", "add", "shop")
    assert code == 1
    assert "more than one service of this name" in said
    client_id = made.partition('"client_id": "')[2].partition('"')[0]
    assert client_id in said
    assert here("key", "add", client_id)[0] == 0
