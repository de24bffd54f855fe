"""The log on the console: one line for each event, for people or as JSON, and never a secret in it.

What is logged while a request is served bears its id (`bind_request_id`).
"""

import logging
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import structlog

from gateway.protocol.terminal import cut, escape

LONGEST_EVENT = 1000
"""How many characters of what has happened are logged; of any other value `terminal.LONGEST` are."""

MEMBERS = 20
"""How many members of a list or an object are logged."""

TRACEBACK_HEAD, TRACEBACK_TAIL = 100, 200
"""How many lines of a traceback are logged, from its beginning and from its end."""

# Each pattern takes linear time, which `test_linearity.py` counts: what repeats is possessive, or stands
# where every text matches from there, so that no text is gone over from each of its positions. A value may
# have been cut, so none of them needs the end of a secret to know it.
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
    # At the level info these log what the gateway has a word of its own for.
    for name in ("alembic", "httpx", "httpcore", "asyncio", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not access_log:
        logging.getLogger("uvicorn.error").addFilter(_is_no_socket_line)
    logging.captureWarnings(as_json)


def console_processors() -> list[structlog.typing.Processor]:
    """Return what renders an event as a line for people, without secrets."""
    plain = structlog.dev.plain_traceback
    # The values are redacted before they are quoted, and the line for what stands as `token=…` in it.
    return [
        _Bounds(escape),
        _redacted_values,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain),
        _redacted,
    ]


def json_processors() -> list[structlog.typing.Processor]:
    """Return what renders an event as a line of JSON, without secrets."""
    # Only the values are redacted: in the line that would cut into the quoting of JSON, which also escapes.
    return [_Bounds(str), _redacted_values, structlog.processors.JSONRenderer()]


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


# --- bounds -------------------------------------------------------------------------------------------------
#
# What is cut is cut before anything else is done with it: a line costs as much as it may hold, whatever was
# to be in it.


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Cuts what a library logs, such as the path of a request, before it is put into its sentence."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
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
    """Return a traceback of bounded length. One with the values of local variables would show tokens."""
    lines = "".join(traceback.format_exception(*exc_info)).rstrip("\n").split("\n")
    left_out = len(lines) - TRACEBACK_HEAD - TRACEBACK_TAIL
    if left_out > 0:
        lines[TRACEBACK_HEAD:-TRACEBACK_TAIL] = [f"… {left_out} lines …"]
    return "\n".join(map(cut, lines))


class _Bounds:
    """Cuts each value of an event, and lets `show` escape what the line cannot hold."""

    def __init__(self, show: Callable[[str], str]) -> None:
        self._show = show

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the event with its values bounded."""
        return {name: self._field(name, value) for name, value in event.items()}

    def _field(self, name: str, value: Any) -> Any:
        if name == "event":
            return self._show(cut(str(value), LONGEST_EVENT))
        if name in {"exception", "stack"}:
            return "\n".join(map(self._show, str(value).split("\n")))
        return self._value(value, 0)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict | list | tuple) and depth > _DEPTH:
            return "…"
        if isinstance(value, dict):
            members = list(value.items())[:MEMBERS]
            return {self._text(str(key)): self._value(one, depth + 1) for key, one in members}
        if isinstance(value, list | tuple):
            return [self._value(one, depth + 1) for one in value[:MEMBERS]]
        return self._text(value if isinstance(value, str) else repr(value))

    def _text(self, text: str) -> str:
        return self._show(cut(text))


_DEPTH = 3
"""How deep a value of an event may be nested."""


# --- redaction ----------------------------------------------------------------------------------------------


def redact(line: str) -> str:
    """Return the line without queries, tokens, keys and passwords, in linear time."""
    # uvicorn logs the address of a WebSocket with its query, where a ticket or a token may be.
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
    """Return a bounded value without the secrets in it."""
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
