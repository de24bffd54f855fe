"""The file of a SQLite database: validated before use, private, and served by one gateway at a time.

A wrong path must not harm the file there. Only files that this module creates, or that SQLite recognizes,
get a new mode.
"""

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy.engine import URL

from gateway.settings import SettingsError

LOCK_SUFFIX = "-serving"
"""Suffix of the lock file, which a process keeps locked while it serves from the database."""

OWNER_TIMEOUT_SECONDS = 2.0
"""How long the process with the lock may take to write its gateway's id to the lock file, in seconds."""

_GROUP_AND_OTHERS = 0o077


class Opening(Enum):
    """Permission to change the file when the database is opened."""

    CREATE = "create the file if it is missing, and let only its owner read it"
    EXISTING = "let only its owner read it"
    LOOK = "nothing"


class MissingDatabaseError(SettingsError):
    """Raised if there is no file at the path of the database."""


def path_of(url: URL) -> Path:
    """Return the path in a URL, with links resolved. Raises `SettingsError` if it names no file."""
    name = url.database or ""
    if "uri" in url.query:
        # SQLite's own URI syntax (https://www.sqlite.org/uri.html).
        parts = urlsplit(name)
        name = unquote(parts.path) if parts.scheme == "file" else name
        if name in {"", ":memory:"} or url.query.get("mode") == "memory":
            raise _wrong(Path(name), "it must be a file that outlives the process")
    return Path(os.path.realpath(name))


def prepare(url: URL, opening: Opening) -> None:
    """Validate the file, and then create it or make it private, as `opening` allows.

    Raises `SettingsError` for a path that can't be used. SQLite gives the two files that it keeps beside the
    database the same mode. For a Postgres database, do nothing.
    """
    if url.get_backend_name() != "sqlite":
        return
    path = path_of(url)
    exists = _validate(path)
    if not exists and (opening is not Opening.CREATE or url.query.get("mode", "rwc") != "rwc"):
        raise MissingDatabaseError(
            f"GATEWAY_DATABASE_URL: there is no database at {path}:"
            " name the one that the gateway serves from, or make one with gateway migrate"
        )
    if not exists:
        _make(path)
    elif opening is not Opening.LOOK:
        for suffix in ("", "-wal", "-shm"):
            _make_private(Path(f"{path}{suffix}"))


def is_missing(url: URL) -> bool:
    """Return whether the file is missing, but can be created. Raises `SettingsError` for an unusable path."""
    if url.get_backend_name() != "sqlite":
        return False
    path = path_of(url)
    if _validate(path):
        return False
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _wrong(path, "its folder cannot be written to")
    return True


def _wrong(path: Path, why: str) -> SettingsError:
    return SettingsError(f"GATEWAY_DATABASE_URL: {path}: the database cannot be used ({why})")


def _validate(path: Path) -> bool:
    """Return whether the file exists. Raises `SettingsError` if it isn't a database, or can't exist."""
    try:
        about = path.stat()
    except FileNotFoundError:
        if path.parent.is_dir():
            return False
        raise _wrong(path, "its folder does not exist") from None
    except (OSError, ValueError) as error:
        raise _wrong(path, getattr(error, "strerror", None) or "it is not a file name") from None
    if not stat.S_ISREG(about.st_mode):
        raise _wrong(path, "it is not a regular file")
    if about.st_nlink > 1:
        # Each name would have its own write-ahead log and lock, and SQLite wouldn't notice.
        raise _wrong(path, f"it has {about.st_nlink} names (hard links): remove all but one")
    if about.st_size == 0:
        # Accept an empty file that is ours and private: a start that was killed at once leaves one. Accept
        # one beside a journal, too: another process is filling it.
        is_ours = about.st_uid == os.geteuid() and not about.st_mode & _GROUP_AND_OTHERS
        if not is_ours and not Path(f"{path}-journal").is_file():
            raise _wrong(path, "it is an empty file that the gateway has not made: remove it")
        return True
    _validate_header(path)
    return True


def _validate_header(path: Path) -> None:
    """Raise `SettingsError` if SQLite doesn't recognize the file.

    SQLite itself must open it. Closing a file that was opened in another way would drop this process's locks
    on it.
    """
    address = f"file:{quote(str(path))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        why = "it is not a SQLite database" if code == sqlite3.SQLITE_NOTADB else "it cannot be read"
        raise _wrong(path, why) from None


def _make(path: Path) -> None:
    try:
        # Another process may create it at the same time.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise _wrong(path, f"it cannot be made: {error.strerror}") from None


def _make_private(path: Path) -> None:
    """Let only the owner use a regular file. Keep the mode of another user's file."""
    with suppress(FileNotFoundError, PermissionError):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode) and about.st_mode & _GROUP_AND_OTHERS:
            path.chmod(0o600)


def _gateway_id() -> bytes:
    """Return an id that only the processes of one gateway share: the folder of their metrics."""
    return os.fsencode(os.environ.get("PROMETHEUS_MULTIPROC_DIR", ""))


def _is_shared(file: int) -> bool:
    """Return whether the lock's owner belongs to this gateway. Wait for the owner to write its id."""
    deadline = time.monotonic() + OWNER_TIMEOUT_SECONDS
    while _gateway_id():
        if os.pread(file, len(_gateway_id()) + 1, 0) == _gateway_id():
            return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return False


def is_served(url: URL) -> bool:
    """Return whether a gateway serves from the file. On Postgres, there is no way to tell: return False."""
    if url.get_backend_name() != "sqlite":
        return False
    try:
        file = os.open(f"{path_of(url)}{LOCK_SUFFIX}", os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _TAKEN
    finally:
        os.close(file)
    return False


_TAKEN = frozenset({errno.EWOULDBLOCK, errno.EACCES})
"""Errors of a lock that another process holds."""


@contextmanager
def served(url: URL) -> Iterator[None]:
    """Hold the lock for serving from the file while the block runs.

    Raises `SettingsError` if another gateway holds it. Processes that share a folder of metrics are one
    gateway. The lock ends with the process, however it ends. It is separate from SQLite's locks, so that
    commands can use the database beside the serving process. On Postgres, any number of gateways may serve.
    """
    if url.get_backend_name() != "sqlite":
        yield
        return
    path = path_of(url)
    _validate(path)
    try:
        file = os.open(f"{path}{LOCK_SUFFIX}", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _wrong(path, f"{path}{LOCK_SUFFIX}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN and not _is_shared(file):
                raise SettingsError(
                    f"GATEWAY_DATABASE_URL: another gateway serves from {path}:"
                    " stop it first, or use Postgres for more than one"
                ) from None
            # Otherwise another process of this gateway has it, or the file system doesn't support locks.
        else:
            os.truncate(file, 0)
            os.pwrite(file, _gateway_id(), 0)
        yield
    finally:
        os.close(file)
