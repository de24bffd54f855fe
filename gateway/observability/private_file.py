"""A log file that only its owner can read, or that is refused."""

import errno
import os
import stat
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from tempfile import TemporaryFile

LONGEST_LINE = 65_536
"""How many bytes of a file are read to know its first line."""


class PrivateFile(WatchedFileHandler):
    """Writes lines to a file that only its owner may read; it is opened anew when it was moved.

    A wrong path costs its file nothing: one that is there is used where it is empty, or `is_ours` knows its
    first line. Any other is refused with `PermissionError`, before its mode or its content is changed.

    One that others may read, and that is ours, is taken from them. One that others could read all the same is
    refused with `PermissionError`: because it is theirs, because a link leads to it, or because its folder
    lets them put another in its place.
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
    """Return in a few words what `PrivateFile` would do to the file. One that is not there is not made.

    Raises `OSError` where it could not be written, or not kept from others.
    """
    _refuse_open_folder(path)
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        # A file without a name shows that one could be made.
        TemporaryFile(dir=Path(path).parent).close()
        return "can be made"
    try:
        _refuse_foreign(file, path, is_ours)
        mode = _others_mode(file, path)
    finally:
        os.close(file)
    return f"can be written; its mode {mode:o} becomes 600" if mode else "can be written"


def _refuse_foreign(file: int, path: str, is_ours: Callable[[bytes], bool]) -> None:
    """Raise `PermissionError` for an open regular file that has something in it, and not a line of ours."""
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_size == 0:
        return
    # Opened for reading apart from writing: a pipe that is opened for both has a reader that never reads.
    with Path(path).open("rb") as beside:
        line = beside.readline(LONGEST_LINE)
        if not os.path.samestat(about, os.fstat(beside.fileno())) or not is_ours(line):
            raise PermissionError(
                errno.EPERM, "it is there, and is no audit log: name one, or a file that is not there yet"
            )


def _others_mode(file: int, path: str) -> int:
    """Return the mode of an open file where others may use it, else 0. Raises `PermissionError`.

    A pipe, a terminal or another device keeps nothing, and is as its owner has made it.
    """
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode):
        return 0
    if Path(path).is_symlink():
        raise PermissionError(errno.EPERM, "it is a symbolic link: name the file that it leads to")
    # Root writes for the user whose gateway it is, and could read the file anyway.
    if os.geteuid() not in {0, about.st_uid}:
        raise PermissionError(errno.EPERM, "it belongs to another user, who can read it")
    mode = stat.S_IMODE(about.st_mode)
    return mode if mode & 0o077 else 0


def _refuse_open_folder(path: str) -> None:
    """Raise `PermissionError` where anybody may rename the file and put another in its place."""
    folder = Path(path).absolute().parent
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"every user may write to its folder {folder}: chmod o-w")
