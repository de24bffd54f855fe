"""The log on the console: one line for each event, and never a secret in it."""

import logging
import re
import sys
from collections.abc import MutableMapping
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
_SOCKET_LINES = ('%s - "WebSocket', "connection ")


def configure(level: str, *, access_log: bool) -> None:
    """Send what the gateway and its libraries log to the console, from this level on.

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
    # A plain traceback: one with the values of local variables would show tokens.
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _redacted],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # At the level info these log what the gateway has a word of its own for.
    for name in ("alembic", "httpx", "httpcore", "asyncio", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not access_log:
        logging.getLogger("uvicorn.error").addFilter(_is_no_socket_line)


def redact(line: str) -> str:
    """Return the line without queries, tokens, keys and passwords."""
    for pattern, replacement in _SECRETS:
        line = pattern.sub(replacement, line)
    return line


def _redacted(_logger: Any, _name: str, rendered: str | MutableMapping[str, Any]) -> str:
    return redact(str(rendered))


def _is_no_socket_line(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not str(record.msg).startswith(_SOCKET_LINES)
