import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from gateway.auth import names, services
from gateway.observability import console_log
from gateway.protocol.terminal import MAX_SHOWN_LENGTH
from gateway.settings import load_settings
from gateway.settings.choices import LogFormat

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
KEY = services.new_key()[2]

LINES = [
    f'127.0.0.1:1 - "WebSocket /v1/ws?token={JWT}&since=4" [accepted]',
    '127.0.0.1:1 - "WebSocket /v1/ws?ticket=c2VjcmV0c2VjcmV0" 403',
    '127.0.0.1:1 - "GET /v1/inbox?cursor=c2VjcmV0c2VjcmV0 HTTP/1.1" 200',
    f"< Sec-WebSocket-Protocol: notify.v1, bearer.{JWT}",
    f"< Authorization: Bearer {KEY}",
    "< Authorization: Basic c2VjcmV0c2VjcmV0",
    f"a bare {JWT} in a text",
    f"a bare {KEY} in a text",
    "grant_type=password&username=ada&password=c2VjcmV0c2VjcmV0",
    "{'password': 'c2VjcmV0 c2VjcmV0'}",
    '{"refresh_token": "c2VjcmV0c2VjcmV0"}',
]


@contextmanager
def logging_to(stderr: io.StringIO, *, as_json: bool) -> Iterator[None]:
    """Configure the log, with the logging of the test run put back at the end."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level, filters = root.handlers[:], root.level, uvicorn.filters[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        # `basicConfig(force=True)` would close the handlers of pytest.
        root.handlers = []
        console_log.configure("info", access_log=True, as_json=as_json)
        yield
    logging.captureWarnings(capture=False)
    root.handlers, root.level, uvicorn.filters = handlers, level, filters
    structlog.reset_defaults()


@pytest.fixture
def console() -> Iterator[io.StringIO]:
    """What the log writes on the console."""
    with logging_to(stderr := io.StringIO(), as_json=False):
        yield stderr


@pytest.fixture
def json_console() -> Iterator[io.StringIO]:
    """What the log writes on the console as JSON."""
    with logging_to(stderr := io.StringIO(), as_json=True):
        yield stderr


@pytest.mark.parametrize("line", LINES)
def test_no_secret_reaches_the_console(console: io.StringIO, line: str) -> None:
    logging.getLogger("uvicorn.error").info("%s", line)
    structlog.get_logger("ours").info("an event", text=line)
    written = console.getvalue()
    assert len(written.splitlines()) == 2
    for secret in ("c2VjcmV0", "c2lnbmF0dXJl", JWT, KEY):
        assert secret not in written


@pytest.mark.parametrize(
    "line", ['127.0.0.1:1 - "GET /v1/inbox HTTP/1.1" 200', "Application startup complete."]
)
def test_a_line_without_a_secret_is_unchanged(line: str) -> None:
    assert console_log.redact(line) == line


def test_a_traceback_shows_no_variables_and_no_secrets(console: io.StringIO) -> None:
    secret = KEY
    try:
        names.check_sub(f"{secret}\0")
    except ValueError:
        structlog.get_logger().exception("it failed", about=secret)
    assert "ValueError" in console.getvalue()
    assert KEY not in console.getvalue()


# --- as JSON ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES)
def test_no_secret_is_in_a_line_of_json(json_console: io.StringIO, line: str) -> None:
    logging.getLogger("uvicorn.error").info("%s", line)
    structlog.get_logger("ours").info(
        "an event", text=line, deep={"a": [line, {line: line}]}, odd=[line, b"x"]
    )
    structlog.get_logger("ours").info(line)
    written = json_console.getvalue()
    events = [json.loads(one) for one in written.splitlines()]
    assert [one["logger"] for one in events] == ["uvicorn.error", "ours", "ours"]
    for secret in ("c2VjcmV0", "c2lnbmF0dXJl", JWT, KEY):
        assert secret not in written


def test_the_value_of_a_secret_field_is_redacted_in_json(json_console: io.StringIO) -> None:
    structlog.get_logger().info(
        "an event", token="c2VjcmV0", Authorization="x", number=3, client_secret=["y"]
    )
    event = json.loads(json_console.getvalue())
    assert (event["token"], event["Authorization"]) == ("[redacted]", "[redacted]")
    assert (event["number"], event["client_secret"]) == (3, "[redacted]")


@pytest.mark.parametrize(
    "text",
    ['a"b\\', "two\nlines\r\n", '/v1/ws?token="x\\"', "\u2028\x00\x1b[31m", "half \ud800", "{}"],
    ids=ascii,
)
def test_every_line_is_one_json_object_whatever_is_logged(json_console: io.StringIO, text: str) -> None:
    logging.getLogger("a library").warning("%s", text)
    structlog.get_logger().info(text, text=text, odd=object(), error=ValueError(text), many={text})
    written = json_console.getvalue()
    assert written.isascii()
    assert [json.loads(one)["level"] for one in written.split("\n")[:-1]] == ["warning", "info"]


def test_a_traceback_is_one_json_string_without_variables(json_console: io.StringIO) -> None:
    secret = KEY
    try:
        int(JWT)
    except ValueError:
        structlog.get_logger().exception("it failed", number=len(secret))
        logging.getLogger("a library").exception("it failed too")
    ours, theirs = (json.loads(one) for one in json_console.getvalue().splitlines())
    for event in (ours, theirs):
        assert event["exception"].startswith("Traceback (most recent call last)")
        assert "ValueError: " in event["exception"]
        assert JWT not in str(event)
        assert KEY not in str(event)


def test_a_python_warning_is_a_json_line_too() -> None:
    with warnings.catch_warnings(), logging_to(stderr := io.StringIO(), as_json=True):
        warnings.simplefilter("always")
        warnings.warn("it is old", DeprecationWarning, stacklevel=1)
    assert "it is old" in json.loads(stderr.getvalue())["event"]


@pytest.mark.parametrize("written", ["INFO", "Info", "info"])
def test_the_log_level_is_case_insensitive(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_LOG_LEVEL", written)
    monkeypatch.setenv("GATEWAY_LOG_FORMAT", "JSON")
    settings = load_settings()
    assert (settings.log_level, settings.log_format) == ("info", LogFormat.JSON)


# --- bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True], ids=["console", "json"])
def test_a_line_is_bounded_whatever_is_logged(as_json: bool) -> None:
    big = "a/" * 500_000
    with logging_to(stderr := io.StringIO(), as_json=as_json):
        logging.getLogger("an access log").info('%s - "GET %s HTTP/1.1" %d', "127.0.0.1:1", big, 404)
        logging.getLogger("a library").warning(big)
        logging.getLogger("a library").warning("it failed: %s", ValueError(big))
        structlog.get_logger().warning("it failed", path=big, error=ValueError(big))
        structlog.get_logger().warning(
            "it failed", many=[big] * 5000, deep={big: [[[[[big]]]]]}, raw=b"x" * 10**6
        )
    lines = stderr.getvalue().splitlines()
    assert [big[:150] in line for line in lines] == [True] * 5
    assert [big[:201] in line for line in lines] == [False, True, False, False, False]
    assert max(map(len, lines)) < 6000
    assert "… HTTP/1.1" in lines[0] or "\\u2026 HTTP/1.1" in lines[0]


@pytest.mark.parametrize("as_json", [False, True], ids=["console", "json"])
def test_a_traceback_is_bounded_and_keeps_both_ends(as_json: bool) -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        raise ValueError(f"the end {'of it ' * 10**5}" + "\nand more" * 10**5)

    with logging_to(stderr := io.StringIO(), as_json=as_json):
        try:
            deeper(10)
        except ValueError:
            structlog.get_logger().exception("it failed")
            logging.getLogger("a library").exception("it failed")
    written = stderr.getvalue()
    assert len(written) < 2 * 70_000
    assert written.count("Traceback (most recent call last)") == 2
    assert written.count("ValueError: the end of it of it") == 2
    assert written.count("lines …" if not as_json else "lines \\u2026") == 2


CUT = [
    (f"/v1/ws?token={JWT}", JWT),
    (f"Bearer {KEY}", KEY),
    (f"Bearer {JWT}", JWT),
    (f"a bare {JWT}", JWT),
    (f"a bare {KEY}", KEY),
    (f"token%3D{JWT}", JWT),
    (f"password={KEY[4:]}", KEY[4:]),
    (f"{{'password': '{KEY[4:]}", KEY[4:]),
    (f'{{"refresh_token": "{KEY[4:]}', KEY[4:]),
    (f'{{"client_secret": "ab\\\\\\"{KEY[4:]}', KEY[4:]),
]


@pytest.mark.parametrize(("text", "secret"), CUT, ids=range(len(CUT)))
@pytest.mark.parametrize("as_json", [False, True], ids=["console", "json"])
def test_a_truncated_secret_does_not_reach_the_log(as_json: bool, text: str, secret: str) -> None:
    for kept in range(8, len(secret), 7):
        before = MAX_SHOWN_LENGTH - 1 - (len(text) - len(secret)) - kept
        with logging_to(stderr := io.StringIO(), as_json=as_json):
            structlog.get_logger().info("an event", text="x" * (before - 1) + " " + text)
        written = stderr.getvalue()
        assert "xxx" in written
        assert secret[:8] not in written, (kept, written)


@pytest.mark.parametrize(
    "text", ["esc \x1b[31m", "a\nb", "a\r\nb", "\x9b31m", "\u202e", "\x07", "\x85", "\u2028"], ids=ascii
)
def test_no_logged_text_controls_the_terminal_or_starts_a_new_line(console: io.StringIO, text: str) -> None:
    logging.getLogger("a library").warning("%s", text)
    structlog.get_logger().warning(text, path=text, many=[text, {text: text}])
    written = console.getvalue()
    assert written.count("\n") == 2
    assert written.replace("\n", "").isprintable()
