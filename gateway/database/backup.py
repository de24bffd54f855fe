"""Online backups of SQLite: one checked snapshot, in a file that only its owner may read."""

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from gateway.database import sqlite_file
from gateway.database.sqlite_file import Opening
from gateway.settings import SettingsError

LOCK_TIMEOUT_SECONDS = 30.0
"""How long a backup waits for another process's lock, in seconds."""


def back_up(url: URL, target: Path) -> int:
    """Copy the SQLite database of this URL to `target`, and return the size of the copy in bytes.

    `target` is written as a whole or not at all, and an existing file is never overwritten. Raises
    `SettingsError` if the file doesn't exist or the database isn't SQLite, and OSError if the copy fails.
    """
    source = _file_of(url)
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target}: it is there already; name a new file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}: create it, or name another")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        _copy(source, part)
        # Link it: a rename would overwrite a file that another process has created meanwhile.
        os.link(part, target)
    finally:
        part.unlink()
    _sync(target.parent)
    return target.stat().st_size


def _file_of(url: URL) -> Path:
    if url.get_backend_name() != "sqlite":
        raise SettingsError("GATEWAY_DATABASE_URL: backup copies SQLite; use pg_dump (docs/operations.md)")
    sqlite_file.prepare(url, Opening.LOOK)
    return sqlite_file.path_of(url)


def _copy(source: Path, part: Path) -> None:
    # VACUUM INTO reads one snapshot, however much is written meanwhile. SQLite's backup API would start again
    # after each write of another process (https://www.sqlite.org/lang_vacuum.html).
    try:
        with closing(
            sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", LOCK_TIMEOUT_SECONDS, uri=True)
        ) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        with closing(sqlite3.connect(part)) as copy:
            (found,) = copy.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        raise OSError(f"{source}: it cannot be copied: {error}") from None
    if found != "ok":
        raise OSError(f"{source}: the copy is damaged, and so may be the database: {found}")
    _sync(part)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk. SQLite doesn't do so for a copy."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
