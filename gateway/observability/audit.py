"""The audit log: who did what, to whom, from where. One JSON object a line, on a logger of its own.

`record` is called where something is decided. It never takes a secret: no token, ticket, password, key or
hash, and no name that the caller only claimed. Text is cut to `LONGEST` characters and everything outside
printable ASCII is escaped, so that no value can begin a line of its own or paint on a terminal.

What anybody can cause without a right to anything is sampled (`SAMPLED`): a caller who is refused over and
over has a line for each of the first 20 refusals of a minute, and then one whenever their number has doubled.
Such a line has a `number`, which is how many it stands for; all lines together say how many there were. The
lines of a wider network, and of all callers (`ALL_CALLERS`), are bounded alike: one beyond is about it all.
Refreshes, which a user may repeat endlessly, are sampled by user (`OF_A_USER`), and only by that.
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
from gateway.protocol.terminal import cut
from gateway.protocol.times import now_ms, timestamp
from gateway.settings import SettingsError
from gateway.settings.networks import FACTORS, networks_of

LONGEST = 255
"""How many characters of a value are kept."""

LISTED = 50
"""How many values of a list are kept."""

WAITING = 10_000
"""How many lines may wait to be written; what comes then is counted and said to be lost."""

PATIENCE = 2.0
"""How long the end of the process waits for the lines that are not written yet, in seconds."""

ALL_CALLERS = 500
"""How many lines of one kind all callers together cause in a minute, before only a doubled number has one."""

logger = logging.getLogger("gateway.audit")

Value = str | int | None | list[str]


class Event(StrEnum):
    """What is recorded. docs/security.md says when, and with which details."""

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
"""The events of which a caller can cause any number. No stolen token is among them."""

OF_A_USER = frozenset({Event.REFRESHED})
"""The sampled events that only a known user can cause. They are sampled by user."""

UNBOUNDED = sys.maxsize
"""How many lines such events of all users may have."""


class Kind(NamedTuple):
    """What sampled events must have in common to be counted as one kind."""

    event: Event
    actor: str | None
    source: str | None
    reasons: tuple[tuple[str, Value], ...]


def record(
    event: Event,
    *,
    actor: str | None,
    subject: str | None = None,
    source: str | None = None,
    **details: Value,
) -> None:
    """Write an event: who did it (`actor`), to whom or what (`subject`), from which address (`source`).

    Name actors and subjects with `user`, `service` and the like; None is for one who is not known. It costs
    some 30 µs where the log is on, and does not wait for the disk.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = details | {"actor": actor, "subject": subject, "source": source, "request_id": request_id()}
    if event in SAMPLED:
        number = _sampler.take(*_kinds(event, actor, source, details))
        if not number:
            return
        if number > 1:
            fields["number"] = number
    _write(event, fields)


def record_ended(
    ended: list[str], why: str, *, actor: str | None, subject: str | None, source: str | None = None
) -> None:
    """Write which sessions have ended; nothing where there was none."""
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
    """Write how many sampled events of the minutes that are over have no line yet; call it now and then."""
    _sampler.tell_rest()


def _kinds(
    event: Event, actor: str | None, source: str | None, details: Mapping[str, Value]
) -> tuple[Kind, list[Group[Kind]]]:
    """Return the kind of an event, and the groups it is in: wider networks, and all callers."""
    names = ("code", "status", "why", "repeated")
    reasons = tuple((name, details[name]) for name in names if details.get(name) is not None)
    actor = actor and cut(actor, LONGEST)
    if event in OF_A_USER:
        return Kind(event, actor, None, reasons), [(Kind(event, None, None, reasons), UNBOUNDED)]
    networks = networks_of(source) if source else (None,)
    kind, *wider = (Kind(event, None, network, reasons) for network in networks)
    groups = [(group, FIRST * factor) for group, factor in zip(wider, FACTORS[1:], strict=False)]
    groups.append((Kind(event, None, None, reasons), ALL_CALLERS))
    return kind._replace(actor=actor), groups


def _write_rest(kind: Kind, number: int) -> None:
    _write(kind.event, {"number": number, **dict(kind.reasons), "actor": kind.actor, "source": kind.source})


_sampler = Sampler(_write_rest)


def _write(event: Event, fields: Mapping[str, Value]) -> None:
    logger.info(_line(event, fields))


def _line(event: Event, fields: Mapping[str, Value]) -> str:
    line: dict[str, Value] = {"time": timestamp(now_ms()), "event": str(event)}
    line |= {name: _bounded(value) for name, value in fields.items() if value is not None}
    return json.dumps(line, separators=(",", ":"))


def _is_line(given: bytes) -> bool:
    """Whether a line is one of an audit log, of whatever version."""
    try:
        line = json.loads(given)
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and all(isinstance(line.get(name), str) for name in ("time", "event"))


def user(sub: str) -> str:
    """Return how the log names a user."""
    return f"user:{sub}"


def service(client_id: str) -> str:
    """Return how the log names a service."""
    return f"service:{client_id}"


def operator() -> str:
    """Return how the log names who runs a command on this machine."""
    return f"operator:{os.getuid()}"


@contextmanager
def written_to(path: str | None, *, as_json: bool = False) -> Iterator[None]:
    """Write the events to a file that only its owner may read, or on the console, while the block runs.

    On a console where the log is written `as_json`, each line has the fields that its other lines have.

    The file is opened anew when it was moved, so it can be rotated. Raises `SettingsError` for one that
    cannot be written, or kept from others, or is no audit log (`PrivateFile`).
    """
    target: logging.Handler
    with _naming_the_setting():
        target = PrivateFile(path, _is_line, encoding="ascii") if path else logging.StreamHandler()
    if as_json and not path:
        target.setFormatter(_AsOthers())
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
    """Return in a few words what `written_to` would do to the file. One that is not there is not made.

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
        return [cut(one, LONGEST) for one in value[:LISTED]]
    return cut(value, LONGEST) if isinstance(value, str) else value


class _AsOthers(logging.Formatter):
    """Begins a line with the fields of the log: its stream is then of one schema."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = json.loads(record.getMessage())
        common = {"timestamp": line["time"], "level": "info", "logger": logger.name}
        return json.dumps(common | line, separators=(",", ":"))


class _Background(logging.Handler):
    """Hands the lines to a thread, so that a slow disk or a full pipe holds up nobody."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, or count it as lost. It is called under the lock of this handler."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what waits, for a while."""
        try:
            self._waiting.put(None, timeout=PATIENCE)
        except queue.Full:
            return
        self._thread.join(PATIENCE)
        self._target.close()
        super().close()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._hand_on(line)
            if self._lost and self.lock is not None:
                with self.lock:
                    lost, self._lost = self._lost, 0
                # Not by way of the queue: it may be full, and the number would be lost with the line.
                text = _line(Event.LOST, {"number": lost})
                self._hand_on(logging.LogRecord(logger.name, logging.INFO, "", 0, text, None, None))

    def _hand_on(self, line: logging.LogRecord) -> None:
        try:
            self._target.handle(line)
        except OSError:
            # The folder is not there, or the file may not be opened anew: the next line tries again.
            self._target.handleError(line)
