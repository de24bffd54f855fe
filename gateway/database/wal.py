"""The write-ahead log of a SQLite file, and a limit on its size.

SQLite restarts the log when its pages are copied into the file and no reader needs them. If reads overlap
without a pause, that never happens by itself, and the log grows. So the writer forces it: it delays the next
commit until the reads that need the log have ended. Reads that begin meanwhile find all pages in the file
(https://sqlite.org/wal.html, "Avoiding Excessively Large WAL Files").
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024
"""Size above which the log is restarted, in bytes."""

RETRY_BYTES = 4 * 1024 * 1024
"""How far the log grows between two attempts, in bytes."""

FIRST_WAIT_MS = 50
"""How long the first attempt may wait for reads, in ms. Each further attempt may wait twice as long."""

MAX_WAIT_MS = 5000
"""Maximum time that an attempt may wait for reads, in ms."""


class WriteAheadLog:
    """The log of the SQLite file at `path`. Use it only in the writing thread."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}-wal"
        self._due = MAX_BYTES
        self.wait_ms = FIRST_WAIT_MS
        """How long the next attempt may wait for reads, in ms."""

    def is_due(self) -> bool:
        """Return whether the log must be restarted."""
        try:
            return os.stat(self._path).st_size > self._due  # noqa: PTH116 - three times as fast
        except FileNotFoundError:
            return False

    def restart(self, connection: sqlite3.Connection) -> None:
        """Restart the log, if the reads that need it end in time. Call it between transactions.

        If they don't, the log is due again when it has grown by `RETRY_BYTES`.
        """
        with closing(connection.execute("PRAGMA busy_timeout")) as cursor:
            (usual,) = cursor.fetchone()
        connection.execute(f"PRAGMA busy_timeout = {self.wait_ms}")
        try:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {usual}")
        if busy:
            self._due = os.stat(self._path).st_size + RETRY_BYTES  # noqa: PTH116
            self.wait_ms = min(2 * self.wait_ms, MAX_WAIT_MS)
        else:
            self._due, self.wait_ms = MAX_BYTES, FIRST_WAIT_MS
