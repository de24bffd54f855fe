"""Private log files: files that only their owner can read. Others are refused."""

import errno
import os
import stat
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from tempfile import TemporaryFile

MAX_LINE_BYTES = 65_536
"""Maximum number of bytes that are read to recognise the first line of a file."""


class PrivateFile(WatchedFileHandler):
    """Writes lines to a file that only its owner may read. It reopens the file after it was moved.

    A wrong path can't damage a file: an existing file is used only if it is empty or `is_ours` recognises its
    first line. Any other file is refused with `PermissionError` before its mode or content changes.

    A recognised file that other users may read gets the mode 600. A file that they could read nevertheless is
    refused with `PermissionError`: it belongs to another user, it is a symbolic link, or its folder lets
    other users replace it.
    """

    def __init__(self, path: str, is_ours: Callable[[bytes], bool], *, encoding: str) -> None:
        self._is_ours = is_ours
        super().__init__(path, encoding=encoding)

    def _open(self) -> TextIOWrapper:
        _refuse_open_folder(self.baseFilename)
        file = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _refuse_foreign(file, self.baseFilename, self._is_ours)
            if _others_mode(file, self.baseFilename):
                os.fchmod(file, 0o600)
        except OSError:
            os.close(file)
            raise
        return os.fdopen(file, "a", encoding=self.encoding)


def look_at(path: str, is_ours: Callable[[bytes], bool]) -> str:
    """Return in a few words what `PrivateFile` would do to the file, without creating a missing file.

    Raises `OSError` if the file can't be written, or if other users could read it.
    """
    _refuse_open_folder(path)
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        # Creating an unnamed temporary file shows that the file can be created.
        TemporaryFile(dir=Path(path).parent).close()
        return "can be made"
    try:
        _refuse_foreign(file, path, is_ours)
        mode = _others_mode(file, path)
    finally:
        os.close(file)
    return f"can be written; its mode {mode:o} becomes 600" if mode else "can be written"


def _refuse_foreign(file: int, path: str, is_ours: Callable[[bytes], bool]) -> None:
    """Raise `PermissionError` for an open regular file that isn't empty and whose first line isn't ours."""
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_size == 0:
        return
    # Opened for reading separately: a pipe opened for both would have this process as a reader that never
    # reads.
    with Path(path).open("rb") as beside:
        line = beside.readline(MAX_LINE_BYTES)
        if not os.path.samestat(about, os.fstat(beside.fileno())) or not is_ours(line):
            raise PermissionError(
                errno.EPERM, "it is not an audit log: name one, or a file that does not exist yet"
            )


def _others_mode(file: int, path: str) -> int:
    """Return the mode of an open file that other users may access, else 0. Raises `PermissionError`.

    Return 0 for a pipe, a terminal or another device: it stores nothing, and its owner has set its mode.
    """
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode):
        return 0
    if Path(path).is_symlink():
        raise PermissionError(errno.EPERM, "it is a symbolic link: name the file that it leads to")
    # Root may run commands for the user that runs the gateway, and can read the file anyway.
    if os.geteuid() not in {0, about.st_uid}:
        raise PermissionError(errno.EPERM, "it belongs to another user, who can read it")
    mode = stat.S_IMODE(about.st_mode)
    return mode if mode & 0o077 else 0


def _refuse_open_folder(path: str) -> None:
    """Raise `PermissionError` if every user may rename the file and put another in its place."""
    folder = Path(path).absolute().parent
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"every user may write to its folder {folder}: chmod o-w")
