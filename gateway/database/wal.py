"""The write-ahead log of a SQLite file, and a bound on its size.

SQLite starts the log anew once its pages are copied into the file and no reader needs them any more. If reads
overlap without a pause, that moment never comes by itself, and the log grows. So the writer makes it come: it
holds back the next commit until the reads that need the log have ended. Reads that begin meanwhile find
everything in the file (https://sqlite.org/wal.html, "Avoiding Excessively Large WAL Files").
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024
"""The size above which the log is started anew, in bytes."""

RETRY_BYTES = 4 * 1024 * 1024
"""How far the log grows between two attempts, in bytes."""

FIRST_WAIT_MS = 50
"""How long the first attempt may wait for reads, in ms. Each further one may wait twice as long."""

MAX_WAIT_MS = 5000
"""How long an attempt may wait for reads at most, in ms."""


class WriteAheadLog:
    """The log beside the SQLite file at `path`. It belongs to the thread that writes."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}-wal"
        self._due = MAX_BYTES
        self.wait_ms = FIRST_WAIT_MS
        """How long the next attempt may wait for reads, in ms."""

    def is_due(self) -> bool:
        """Return whether the log is to be started anew."""
        try:
            return os.stat(self._path).st_size > self._due  # noqa: PTH116 - a third of the time
        except FileNotFoundError:
            return False

    def restart(self, connection: sqlite3.Connection) -> None:
        """Start the log anew, if the reads that need it end in time. Call it between transactions.

        If they do not, the log is due again when it has grown by `RETRY_BYTES`.
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
