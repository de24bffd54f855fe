"""The log on the console: one line for each event, for people or as JSON, and never a secret in it.

What is logged while a request is served bears its id (`bind_request_id`).
"""

import logging
import random
import re
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

import structlog

_SECRETS = [
    # uvicorn logs the address of a WebSocket with its query, where a ticket or a token may be.
    (re.compile(r"(/[^\s?\"']*)\?[^\s\"']+"), r"\1?[redacted]"),
    (re.compile(r"(?i)\b(bearer|basic)([ .:=]+)[^\s\"',]+"), r"\1\2[redacted]"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]*(\.[\w-]*)?"), "[token]"),
    (re.compile(r"\bngk_\w+"), "ngk_[redacted]"),
    (
        re.compile(
            r"(?i)\b((?:access_|refresh_)?token|ticket|password|(?:client_)?secret)(['\"]?\s*[=:]\s*)"
            r"(?:'[^']*'|\"[^\"]*\"|[^\s&'\",]+)"
        ),
        r"\1\2[redacted]",
    ),
]
_SECRET_NAME = re.compile(r"(?i)(authorization|token|ticket|password|secret)$")
_SOCKET_LINES = ('%s - "WebSocket', "connection ")


def configure(level: str, *, access_log: bool, as_json: bool = False) -> None:
    """Send what the gateway and its libraries log to the console, from this level on; `as_json` for programs.

    With `access_log` there is a line for each socket too; uvicorn counts those as ordinary events.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_json_processors() if as_json else _console_processors()),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # At the level info these log what the gateway has a word of its own for.
    for name in ("alembic", "httpx", "httpcore", "asyncio", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not access_log:
        logging.getLogger("uvicorn.error").addFilter(_is_no_socket_line)
    logging.captureWarnings(as_json)


def _console_processors() -> list[structlog.typing.Processor]:
    # A plain traceback: one with the values of local variables would show tokens.
    traceback = structlog.dev.plain_traceback
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=traceback),
        _redacted,
    ]


def _json_processors() -> list[structlog.typing.Processor]:
    # The values are redacted, and not the line: that would cut into the quoting of JSON.
    return [structlog.processors.format_exc_info, _redacted_values, structlog.processors.JSONRenderer()]


# --- the id of a request ------------------------------------------------------------------------------------

REQUEST_ID = b"x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> bytes:
    """Return an id for a request that brings none along. It keeps no secret."""
    return b"%032x" % random.getrandbits(128)


def bind_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id that a request brings along, or a new one, and let all that it makes us log bear it.

    It is taken over where it cannot be mistaken for anything else in a line of a log: 1 to 128 letters,
    digits, dots, underscores and hyphens.
    """
    given = next((value for name, value in headers if name == REQUEST_ID), b"")
    request_id = given if _REQUEST_ID.fullmatch(given) else new_request_id()
    structlog.contextvars.bind_contextvars(request_id=request_id.decode())
    return request_id


def request_id() -> str | None:
    """Return the id of the request that is being served, if any is."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found


# --- redaction ----------------------------------------------------------------------------------------------


def redact(line: str) -> str:
    """Return the line without queries, tokens, keys and passwords."""
    for pattern, replacement in _SECRETS:
        line = pattern.sub(replacement, line)
    return line


def _redacted(_logger: Any, _name: str, rendered: str | MutableMapping[str, Any]) -> str:
    return redact(str(rendered))


def _redacted_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _redacted_value(name, value) for name, value in event.items()}


def _redacted_value(name: str, value: Any) -> Any:
    """Return a value that JSON can hold, and that shows no secret."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name):
        return "[redacted]"
    if isinstance(value, dict):
        return {redact(str(key)): _redacted_value(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted_value(name, inner) for inner in value]
    return redact(value if isinstance(value, str) else repr(value))


def _is_no_socket_line(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not str(record.msg).startswith(_SOCKET_LINES)
