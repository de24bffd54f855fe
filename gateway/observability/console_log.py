"""The console log: one line per event, as text or JSON, with all secrets redacted.

Lines that are logged while a request is served contain its id (`bind_request_id`).
"""

import logging
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

from gateway.protocol.fields import first_field
from gateway.protocol.terminal import cut, escape

MAX_EVENT_LENGTH = 1000
"""Maximum length of an event's text, in characters. For other values it is `terminal.MAX_SHOWN_LENGTH`."""

MAX_MEMBERS = 20
"""Maximum number of members of a list or an object that are logged."""

TRACEBACK_HEAD, TRACEBACK_TAIL = 100, 200
"""Maximum number of lines of a traceback that are logged, from its beginning and from its end."""

# Each pattern takes linear time, as `test_linearity.py` checks: a repetition is possessive, or stands where
# any text matches, so that no text is scanned again from each of its positions. A value may have been cut, so
# no pattern needs the end of a secret to recognise it.
_QUOTED = r"'(?:[^'\\\n]|\\.)*+'?|\"(?:[^\"\\\n]|\\.)*+\"?"
_ADDRESS = re.compile(r"/[^\s?\"']*+(\?[^\s\"']+)?")
_SECRETS = [
    (re.compile(r"(?i)\b(bearer|basic)([ .:=]++)[^\s\"',]++"), r"\1\2[redacted]"),
    (re.compile(r"(?:\b|(?<=%[0-9A-Fa-f]{2}))eyJ[\w.-]++"), "[token]"),
    (re.compile(r"ngk_\w++"), "ngk_[redacted]"),
    (
        re.compile(rf"(?i)(token|ticket|password|secret)(['\"]?\s*+[=:]\s*+)(?:{_QUOTED}|[^\s&'\",]++)"),
        r"\1\2[redacted]",
    ),
]
_SECRET_NAME = re.compile(r"(?i)(authorization|token|ticket|password|secret)$")
_SOCKET_LINES = ('%s - "WebSocket', "connection ")


def configure(level: str, *, access_log: bool, as_json: bool = False) -> None:
    """Send the logs of the gateway and its libraries to the console, from this level on, as text or JSON.

    `access_log` keeps uvicorn's lines for each socket, which uvicorn logs as ordinary events.
    """
    shared: list[structlog.typing.Processor] = [
        _add_request_id,
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
        _Formatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_traceback),
                *(json_processors() if as_json else console_processors()),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # At level INFO these libraries log events that the gateway logs itself.
    for name in ("alembic", "httpx", "httpcore", "asyncio", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not access_log:
        logging.getLogger("uvicorn.error").addFilter(_is_no_socket_line)
    logging.captureWarnings(as_json)


def console_processors() -> list[structlog.typing.Processor]:
    """Return the processors that render an event as a line of text, without secrets."""
    plain = structlog.dev.plain_traceback
    # Values are redacted before they are quoted. The line is redacted again, for fields such as `token=…`.
    return [
        _Bounds(escape),
        _redacted_values,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain),
        _redacted,
    ]


def json_processors() -> list[structlog.typing.Processor]:
    """Return the processors that render an event as a line of JSON, without secrets."""
    # Only the values are redacted: redacting the whole line would break the quoting of JSON, which also
    # escapes.
    return [_Bounds(str), _redacted_values, structlog.processors.JSONRenderer()]


# --- the id of a request ------------------------------------------------------------------------------------

REQUEST_ID = b"x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

_bound_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def new_request_id() -> bytes:
    """Return an id for a request without one. It is not a secret."""
    return b"%032x" % random.getrandbits(128)


def bind_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id from a request's header, or a new one, and add it to all lines logged for the request.

    The header is used only if it can't be mistaken for another part of a log line: 1 to 128 letters, digits,
    dots, underscores and hyphens.
    """
    given = first_field(headers, REQUEST_ID)
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()
    _bound_id.set(request_id.decode())
    return request_id


def request_id() -> str | None:
    """Return the id of the request that is being served, or None."""
    return _bound_id.get()


def _add_request_id(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the id of the request that is being served, if an event has none."""
    if (bound := _bound_id.get()) is not None:
        event.setdefault("request_id", bound)
    return event


# --- bounds -------------------------------------------------------------------------------------------------
#
# Values are cut before any other processing, so that the cost of a line depends only on its maximum length.


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Cuts the arguments of a library's log record, such as a request's path, before they are formatted."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted line."""
        args = record.args
        if args:
            record = logging.makeLogRecord(record.__dict__)
            record.args = _short_args(args)
        return super().format(record)


_Args = tuple[object, ...] | Mapping[str, object]


def _short_args(args: _Args) -> _Args:
    if isinstance(args, Mapping):
        return {name: _short_arg(value) for name, value in args.items()}
    return tuple(map(_short_arg, args))


def _short_arg(value: object) -> object:
    return cut(str(value)) if isinstance(value, str | BaseException) else value


def _traceback(exc_info: Any) -> str:
    """Return a traceback of bounded length, without the values of local variables, which may be tokens."""
    lines = "".join(traceback.format_exception(*exc_info)).rstrip("\n").split("\n")
    left_out = len(lines) - TRACEBACK_HEAD - TRACEBACK_TAIL
    if left_out > 0:
        lines[TRACEBACK_HEAD:-TRACEBACK_TAIL] = [f"… {left_out} lines …"]
    return "\n".join(map(cut, lines))


class _Bounds:
    """Cuts each value of an event, and passes it to `show`, which escapes unprintable characters."""

    def __init__(self, show: Callable[[str], str]) -> None:
        self._show = show

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the event with its values bounded."""
        return {name: self._field(name, value) for name, value in event.items()}

    def _field(self, name: str, value: Any) -> Any:
        if name == "event":
            return self._show(cut(str(value), MAX_EVENT_LENGTH))
        if name in {"exception", "stack"}:
            return "\n".join(map(self._show, str(value).split("\n")))
        return self._value(value, 0)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict | list | tuple) and depth > _MAX_DEPTH:
            return "…"
        if isinstance(value, dict):
            members = list(value.items())[:MAX_MEMBERS]
            return {self._text(str(key)): self._value(one, depth + 1) for key, one in members}
        if isinstance(value, list | tuple):
            return [self._value(one, depth + 1) for one in value[:MAX_MEMBERS]]
        return self._text(value if isinstance(value, str) else repr(value))

    def _text(self, text: str) -> str:
        return self._show(cut(text))


_MAX_DEPTH = 3
"""Maximum depth to which nested values of an event are logged."""


# --- redaction ----------------------------------------------------------------------------------------------


def redact(line: str) -> str:
    """Return the line without queries, tokens, keys and passwords, in linear time."""
    # uvicorn logs the URL of a WebSocket with its query, which may contain a ticket or a token.
    line = _ADDRESS.sub(_without_query, line)
    for pattern, replacement in _SECRETS:
        line = pattern.sub(replacement, line)
    return line


def _without_query(address: re.Match[str]) -> str:
    return address[0] if address[1] is None else f"{address[0][: -len(address[1])]}?[redacted]"


def _redacted(_logger: Any, _name: str, rendered: str | MutableMapping[str, Any]) -> str:
    return redact(str(rendered))


def _redacted_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _redacted_value(name, value) for name, value in event.items()}


def _redacted_value(name: str, value: Any) -> Any:
    """Return a bounded value without its secrets."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name):
        return "[redacted]"
    if isinstance(value, dict):
        return {redact(key): _redacted_value(key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted_value(name, inner) for inner in value]
    return redact(value)


def _is_no_socket_line(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not str(record.msg).startswith(_SOCKET_LINES)
