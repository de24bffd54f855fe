"""The audit log: who did what, to whom, from where. One JSON object per line, on its own logger.

Code that decides something calls `record`. It must never pass a secret: no token, ticket, password, key or
hash, and no name that the caller only claimed. Everything outside printable ASCII is escaped, so that no
value can start a new line or control a terminal. Text over `MAX_VALUE_LENGTH` characters, or over
`MAX_VALUE_BYTES` when escaped, is cut; the end of its hash tells apart values with the same beginning.

Events that an unauthenticated caller can cause are sampled (`SAMPLED`). Repeated refusals of one caller get a
line for each of the first 20 in a minute, then one whenever their number has doubled. The `number` of such a
line says how many refusals it stands for, and all lines together give the total. The lines of a wider
network, and of all callers (`ALL_CALLERS`), are limited in the same way: a line beyond the limit is about the
whole group. Refreshes, which a user may repeat without limit, are sampled by user only (`SAMPLED_BY_USER`).
Events that a service may repeat (`SAMPLED_BY_SERVICE`) are sampled by service and user, then by service.
"""

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

from gateway.observability.console_log import request_id
from gateway.observability.private_file import PrivateFile, look_at
from gateway.observability.sampling import FIRST, Group, Sampler
from gateway.protocol.terminal import abridge
from gateway.protocol.times import now_ms, timestamp
from gateway.settings import SettingsError
from gateway.settings.networks import FACTORS, networks_of

MAX_VALUE_LENGTH = 255
"""Maximum length of a value, in characters. Longer ones are cut."""

MAX_VALUE_BYTES = 512
"""Maximum size of a value, escaped and with its quotes. Larger ones are cut."""

MAX_LIST_LENGTH = 50
"""Maximum number of values of a list. Further ones are left out."""

MAX_WAITING_LINES = 10_000
"""Maximum number of lines that wait to be written. Further lines are dropped, and reported as lost."""

CLOSE_TIMEOUT_SECONDS = 2.0
"""How long a stopping process waits for room in the queue, and then for the lines in it to be written."""

ALL_CALLERS = 500
"""Maximum number of lines of one kind in a minute, of all callers together. Beyond it, doublings get one."""

ONE_SERVICE = 500
"""Maximum number of lines of one kind in a minute, of one service. Beyond it, doublings get one."""

logger = logging.getLogger("gateway.audit")

Value = str | int | None | list[str]


class Event(StrEnum):
    """The events of the audit log. docs/security.md says when each is recorded, and with which details."""

    LOGIN = "login"
    LOGIN_FAILED = "login_failed"
    REFRESHED = "refreshed"
    REFRESH_FAILED = "refresh_failed"
    REFRESH_REUSED = "refresh_reused"
    TOKEN_MINTED = "token_minted"  # noqa: S105  (the name of an event)
    TICKET_ISSUED = "ticket_issued"
    SESSIONS_ENDED = "sessions_ended"
    USER_CREATED = "user_created"
    USER_CHANGED = "user_changed"
    USER_DELETED = "user_deleted"
    SERVICE_CREATED = "service_created"
    SERVICE_DELETED = "service_deleted"
    KEY_CREATED = "key_created"
    KEY_DELETED = "key_deleted"
    SIGNING_KEY_ROTATED = "signing_key_rotated"
    EPOCHS_RENEWED = "epochs_renewed"
    REFUSED = "refused"
    LOST = "lost"


SAMPLED = frozenset({Event.REFUSED, Event.LOGIN_FAILED, Event.REFRESH_FAILED, Event.REFRESHED})
"""The events that a caller can cause without limit. Reuse of a refresh token, a theft, is not among them."""

SAMPLED_BY_USER = frozenset({Event.REFRESHED})
"""The sampled events that only an authenticated user can cause. They are sampled by user."""

SAMPLED_BY_SERVICE = frozenset(
    {
        (Event.TOKEN_MINTED, None),
        (Event.LOGIN, "client_credentials"),
        (Event.SESSIONS_ENDED, "too_many_sessions"),
    }
)
"""The events, with their `grant` or `why`, that a service can repeat up to its budgets."""

UNBOUNDED = sys.maxsize
"""The limit on the lines of such events for all users together: none."""


class Kind(NamedTuple):
    """The key of a sample: events with equal values are counted together."""

    event: Event
    actor: str | None
    source: str | None
    reasons: tuple[tuple[str, Value], ...]
    subject: str | None = None


def record(
    event: Event,
    *,
    actor: str | None,
    subject: str | None = None,
    source: str | None = None,
    **details: Value,
) -> None:
    """Write an event: who did it (`actor`), to whom or what (`subject`), from which address (`source`).

    Name actors and subjects with `user`, `service` or `operator`. None means unknown. A call takes about 30
    µs while the audit log is on, and doesn't wait for the disk.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = details | {"actor": actor, "subject": subject, "source": source, "request_id": request_id()}
    if sample := _sample_of(event, actor, subject, source, details):
        ended = details.get("sessions")
        number = _sampler.take(*sample, len(ended) if isinstance(ended, list) else 1)
        if not number:
            return
        if number > 1:
            fields["number"] = number
    _write(event, fields)


def record_ended(
    ended: list[str], why: str, *, actor: str | None, subject: str | None, source: str | None = None
) -> None:
    """Write an event with the sessions that have ended, unless the list is empty."""
    if ended:
        record(
            Event.SESSIONS_ENDED,
            actor=actor,
            subject=subject,
            source=source,
            why=why,
            number=len(ended),
            sessions=ended,
        )


def tell_rest() -> None:
    """Write the number of sampled events in past minutes that have no line yet. Call it periodically."""
    _sampler.tell_rest()


def _sample_of(
    event: Event, actor: str | None, subject: str | None, source: str | None, details: Mapping[str, Value]
) -> tuple[Kind, list[Group[Kind]]] | None:
    """Return the kind of an event and its groups, or None for an event that always gets a line."""
    if event in SAMPLED:
        return _kinds(event, actor, source, details)
    if actor is None or (event, details.get("grant") or details.get("why")) not in SAMPLED_BY_SERVICE:
        return None
    group = Kind(event, _cut(actor), None, _reasons(details))
    kind = group if subject is None else group._replace(subject=_cut(subject))
    return kind, [(group, ONE_SERVICE)]


def _reasons(details: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    names = ("code", "status", "why", "grant", "repeated")
    return tuple((name, details[name]) for name in names if details.get(name) is not None)


def _kinds(
    event: Event, actor: str | None, source: str | None, details: Mapping[str, Value]
) -> tuple[Kind, list[Group[Kind]]]:
    """Return the kind of an event and its groups: wider networks, and all callers."""
    reasons = _reasons(details)
    actor = actor and _cut(actor)
    if event in SAMPLED_BY_USER:
        return Kind(event, actor, None, reasons), [(Kind(event, None, None, reasons), UNBOUNDED)]
    networks = networks_of(source) if source else (None,)
    kind, *wider = (Kind(event, None, network, reasons) for network in networks)
    groups = [(group, FIRST * factor) for group, factor in zip(wider, FACTORS[1:], strict=False)]
    groups.append((Kind(event, None, None, reasons), ALL_CALLERS))
    return kind._replace(actor=actor), groups


def _write_rest(kind: Kind, number: int) -> None:
    who = {"actor": kind.actor, "subject": kind.subject, "source": kind.source}
    _write(kind.event, {"number": number, **dict(kind.reasons), **who})


_sampler = Sampler(_write_rest)


def _write(event: Event, fields: Mapping[str, Value]) -> None:
    logger.info(_line(event, fields))


def _line(event: Event, fields: Mapping[str, Value]) -> str:
    line: dict[str, Value] = {"time": timestamp(now_ms()), "event": str(event)}
    line |= {name: _bounded(value) for name, value in fields.items() if value is not None}
    return json.dumps(line, separators=(",", ":"))


def _is_line(given: bytes) -> bool:
    """Whether a line belongs to an audit log, of any version of the gateway."""
    try:
        line = json.loads(given)
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and all(isinstance(line.get(name), str) for name in ("time", "event"))


def user(sub: str) -> str:
    """Return the name of a user in the log."""
    return f"user:{sub}"


def service(client_id: str) -> str:
    """Return the name of a service in the log."""
    return f"service:{client_id}"


def operator() -> str:
    """Return the name in the log of the operator who runs a command on this machine."""
    return f"operator:{os.getuid()}"


@contextmanager
def written_to(path: str | None, *, as_json: bool = False) -> Iterator[None]:
    """Write the events to a file that only its owner may read, or to the console, while the block runs.

    With `as_json`, each line on the console also has the fields that all lines of the console log have.

    The file is reopened after it was moved, so it can be rotated. Raises `SettingsError` for a file that
    can't be written, that other users could read, or that is not an audit log (`PrivateFile`).
    """
    target: logging.Handler
    with _naming_the_setting():
        target = PrivateFile(path, _is_line, encoding="ascii") if path else logging.StreamHandler()
    if as_json and not path:
        target.setFormatter(_WithCommonFields())
    handler = _Background(target)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _sampler.tell_rest(everything=True)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()


def check(path: str) -> str:
    """Return in a few words what `written_to` would do to the file, without creating a missing file.

    Raises `SettingsError` as `written_to` does.
    """
    with _naming_the_setting():
        return look_at(path, _is_line)


@contextmanager
def _naming_the_setting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"GATEWAY_AUDIT_LOG: {error.strerror or error}") from None


def _bounded(value: Value) -> Value:
    if isinstance(value, list):
        return [_cut(one) for one in value[:MAX_LIST_LENGTH]]
    return _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    return abridge(text, MAX_VALUE_LENGTH, MAX_VALUE_BYTES)


class _WithCommonFields(logging.Formatter):
    """Begins a line with the fields of the console log, so that all lines of the stream share a schema."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with the common fields."""
        line = json.loads(record.getMessage())
        common = {"timestamp": line["time"], "level": "info", "logger": logger.name}
        return json.dumps(common | line, separators=(",", ":"))


class _Background(logging.Handler):
    """Writes the lines in a thread, so that a slow disk or a full pipe blocks no caller."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_WAITING_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as lost. `logging` calls this under the handler's lock."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write the queued lines, and give up after a timeout."""
        try:
            self._waiting.put(None, timeout=CLOSE_TIMEOUT_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_TIMEOUT_SECONDS)
        self._target.close()
        super().close()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._pass_on(line)
            if self._lost and self.lock is not None:
                with self.lock:
                    lost, self._lost = self._lost, 0
                # Bypass the queue: it may be full, and the number would be lost with the line.
                text = _line(Event.LOST, {"number": lost})
                self._pass_on(logging.LogRecord(logger.name, logging.INFO, "", 0, text, None, None))

    def _pass_on(self, line: logging.LogRecord) -> None:
        try:
            self._target.handle(line)
        except OSError:
            # The folder is missing, or the file can't be reopened. The next line tries again.
            self._target.handleError(line)
