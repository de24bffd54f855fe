"""The audit log: who did what, to whom, from where. One JSON object a line, on a logger of its own.

`record` is called where something is decided. It never takes a secret: no token, ticket, password, key or
hash, and no name that the caller only claimed. Text is cut to `LONGEST` characters and everything outside
printable ASCII is escaped, so that no value can begin a line of its own or paint on a terminal.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from tempfile import TemporaryFile

from gateway.logs import request_id
from gateway.protocol import timestamp
from gateway.settings import SettingsError

LONGEST = 255
"""How many characters of a value are kept."""

LISTED = 50
"""How many values of a list are kept."""

WAITING = 10_000
"""How many lines may wait to be written; what comes then is counted and said to be lost."""

PATIENCE = 2.0
"""How long the end of the process waits for the lines that are not written yet, in seconds."""

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
    line: dict[str, Value] = {"time": timestamp(int(time.time() * 1000)), "event": str(event)}
    line |= {name: _bounded(value) for name, value in fields.items() if value is not None}
    logger.info(json.dumps(line, separators=(",", ":")))


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
def written_to(path: str | None) -> Iterator[None]:
    """Write the events to a file that only its owner may read, or on the console, while the block runs.

    The file is opened anew when it was moved, so it can be rotated. Raises `SettingsError` for one that
    cannot be written.
    """
    target: logging.Handler
    with _naming_the_setting():
        target = _PrivateFile(path, encoding="ascii") if path else logging.StreamHandler()
    handler = _Background(target)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()


def check(path: str) -> None:
    """Raise `SettingsError` where the file could not be written. One that is not there is not made."""
    with _naming_the_setting():
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        except FileNotFoundError:
            # A file without a name shows that one could be made.
            TemporaryFile(dir=Path(path).parent).close()


@contextmanager
def _naming_the_setting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"GATEWAY_AUDIT_LOG: {error.strerror or error}") from None


def _bounded(value: Value) -> Value:
    if isinstance(value, list):
        return [_cut(one) for one in value[:LISTED]]
    return _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


class _PrivateFile(WatchedFileHandler):
    """A file that only its owner may read."""

    def _open(self) -> TextIOWrapper:
        file = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(file, "a", encoding=self.encoding)


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
            try:
                self._target.handle(line)
            except OSError:
                # The folder is not there, or the file may not be opened anew: the next line tries again.
                self._target.handleError(line)
            if self._lost and self.lock is not None:
                with self.lock:
                    lost, self._lost = self._lost, 0
                record(Event.LOST, actor=None, number=lost)
