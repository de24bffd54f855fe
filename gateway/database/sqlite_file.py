"""The file of a SQLite database: validated before anything is done to it, private, and served by one process.

A wrong path must cost its file nothing: only a file that is made here, or one that begins as SQLite's do, has
its mode changed.
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
"""What the name of the file ends with whose lock the process holds that serves from a database."""

SAYS_SO = 2.0
"""How long the process that has the lock may take to say of which gateway it is, in seconds."""

_OTHERS = 0o077


class Opening(Enum):
    """What opening a database may do to its file."""

    CREATE = "make the file where there is none, and let only its owner read it"
    EXISTING = "let only its owner read it"
    LOOK = "nothing"


class MissingDatabaseError(SettingsError):
    """There is no file at the path of the database."""


def path_of(url: URL) -> Path:
    """Return the path of the file that a URL names, links resolved. Raises `SettingsError` for no file."""
    name = url.database or ""
    if "uri" in url.query:
        # SQLite's own way to name a file (https://www.sqlite.org/uri.html).
        parts = urlsplit(name)
        name = unquote(parts.path) if parts.scheme == "file" else name
        if name in {"", ":memory:"} or url.query.get("mode") == "memory":
            raise _wrong(Path(name), "it must be a file that outlives the process")
    return Path(os.path.realpath(name))


def prepare(url: URL, opening: Opening) -> None:
    """Validate the file, and then do to it what `opening` says. Raises `SettingsError` for a wrong one.

    SQLite gives the two files that it keeps beside the database the mode of the database. A database of
    Postgres has no file.
    """
    if url.get_backend_name() != "sqlite":
        return
    path = path_of(url)
    exists = _validate(path)
    if not exists and (opening is not Opening.CREATE or url.query.get("mode", "rwc") != "rwc"):
        raise MissingDatabaseError(
            f"GATEWAY_DATABASE_URL: there is no database at {path}:"
            " name the one that the gateway serves from, or make it with gateway migrate or --create"
        )
    if not exists:
        _make(path)
    elif opening is not Opening.LOOK:
        for suffix in ("", "-wal", "-shm"):
            _take_from_others(Path(f"{path}{suffix}"))


def is_missing(url: URL) -> bool:
    """Whether there is no file yet, and one can be made. Raises `SettingsError` for a path that is wrong."""
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
    """Return whether there is a file. Raises `SettingsError` where none can be, or it is no database."""
    try:
        about = path.stat()
    except FileNotFoundError:
        if path.parent.is_dir():
            return False
        raise _wrong(path, "its folder does not exist") from None
    except (OSError, ValueError) as error:
        raise _wrong(path, getattr(error, "strerror", None) or "it is no name of a file") from None
    if not stat.S_ISREG(about.st_mode):
        raise _wrong(path, "it is not a regular file")
    if about.st_nlink > 1:
        # Each name would have a log and a lock of its own, and SQLite would not notice.
        raise _wrong(path, f"it has {about.st_nlink} names (hard links): remove all but one")
    if about.st_size == 0:
        # What a start has left that was killed at once is ours, and private; beside what another process is
        # about to fill SQLite keeps a journal.
        is_ours = about.st_uid == os.geteuid() and not about.st_mode & _OTHERS
        if not is_ours and not Path(f"{path}-journal").is_file():
            raise _wrong(path, "it is an empty file that the gateway has not made: remove it")
        return True
    _validate_header(path)
    return True


def _validate_header(path: Path) -> None:
    """Raise `SettingsError` for a file that SQLite does not know as its own.

    SQLite itself looks: who opens and closes the file otherwise drops the locks of this process on it.
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
        # Another process may be about to make it, too.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise _wrong(path, f"it cannot be made: {error.strerror}") from None


def _take_from_others(path: Path) -> None:
    """Let only its owner use a regular file. One that belongs to somebody else keeps its mode."""
    with suppress(FileNotFoundError, PermissionError):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode) and about.st_mode & _OTHERS:
            path.chmod(0o600)


def _gateway() -> bytes:
    """Return what the processes of one gateway share, and no two gateways: the folder of their metrics."""
    return os.fsencode(os.environ.get("PROMETHEUS_MULTIPROC_DIR", ""))


def _is_shared(file: int) -> bool:
    """Whether the process that has the lock is one of this gateway. It may just be about to say so."""
    deadline = time.monotonic() + SAYS_SO
    while _gateway():
        if os.pread(file, len(_gateway()) + 1, 0) == _gateway():
            return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return False


@contextmanager
def served(url: URL) -> Iterator[None]:
    """Be the one process that serves from the file while the block runs. Raises `SettingsError` for another.

    Processes that share a folder of metrics are one gateway. The lock ends with the process, however it
    ends. It is no lock of SQLite's: commands use the database
    beside the process that serves. For a database of Postgres there may be any number.
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
            is_taken = error.errno in {errno.EWOULDBLOCK, errno.EACCES}
            if is_taken and not _is_shared(file):
                raise SettingsError(
                    f"GATEWAY_DATABASE_URL: another gateway serves from {path}:"
                    " stop it first, or use Postgres for more than one"
                ) from None
            # Else it is another process of this gateway, or a file system without such locks.
        else:
            os.truncate(file, 0)
            os.pwrite(file, _gateway(), 0)
        yield
    finally:
        os.close(file)
