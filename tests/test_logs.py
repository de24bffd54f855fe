import io
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from gateway import accounts, logs, services

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


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the log writes on the console, with the logging of the test run put back at the end."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level, filters = root.handlers[:], root.level, uvicorn.filters[:]
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    # `basicConfig(force=True)` would close the handlers of pytest.
    root.handlers = []
    logs.configure("info", access_log=True)
    yield stderr
    root.handlers, root.level, uvicorn.filters = handlers, level, filters
    structlog.reset_defaults()


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
def test_what_holds_no_secret_is_left_alone(line: str) -> None:
    assert logs.redact(line) == line


def test_a_traceback_shows_no_variables_and_no_secrets(console: io.StringIO) -> None:
    secret = KEY
    try:
        accounts.check_sub(f"{secret}\0")
    except ValueError:
        structlog.get_logger().exception("it failed", about=secret)
    assert "ValueError" in console.getvalue()
    assert KEY not in console.getvalue()
