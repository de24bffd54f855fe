"""A backup of SQLite while the gateway writes: one snapshot, checked, in a file of its owner's only."""

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from gateway.database import sqlite_file
from gateway.database.sqlite_file import Opening
from gateway.settings import SettingsError

WAIT = 30.0
"""How long the backup waits for a lock of another process, in seconds."""


def back_up(url: URL, target: Path) -> int:
    """Copy the SQLite database of this URL to `target`, and return the size of the copy in bytes.

    `target` is there whole or not at all, and nothing that is there is overwritten. Raises `SettingsError`
    where there is no such file to copy, or another database, and OSError where the copy cannot be made.
    """
    source = _file_of(url)
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target}: it is there already; name a new file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}: make it, or name another")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        _copy(source, part)
        # A link, for to rename would overwrite what another has put there meanwhile.
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
    # VACUUM INTO reads one snapshot however much is written meanwhile; the backup API of SQLite would begin
    # anew with each write of another process (https://www.sqlite.org/lang_vacuum.html).
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", WAIT, uri=True)) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        with closing(sqlite3.connect(part)) as copy:
            (found,) = copy.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        raise OSError(f"{source}: it cannot be copied: {error}") from None
    if found != "ok":
        raise OSError(f"{source}: the copy is damaged, and so may be the database: {found}")
    _sync(part)


def _sync(path: Path) -> None:
    """Have the disk keep what was written. SQLite has not done so for a copy."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
