"""The file `.env` of the folder that a command is started in."""

import codecs
import os
import re
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from gateway.settings.spelling import PREFIX

_LINE_END = re.compile(r"\r\n|\n|\r")


def load(path: str = ".env") -> None:
    """Put the settings of the file into the environment, where that has none of the name.

    Raises `SettingsError` for a file that cannot be read, is not UTF-8, or has a line that is no setting.
    """
    file = Path(path)
    try:
        # A folder is where some keep an environment of Python. A pipe would be waited for.
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise _wrong(f"{path}: it is no regular file: put NAME=VALUE lines into one")
        given = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise _wrong(f"{path}: it cannot be read: {error.strerror}") from None
    text = _text(path, given)
    _check_lines(path, text)
    # Settings are read in any case: one of the environment wins over one of the file, however it is written.
    there = {name.upper() for name in os.environ}
    for name, value in dotenv_values(stream=StringIO(text)).items():
        if name.upper().startswith(PREFIX) and value is not None and name.upper() not in there:
            os.environ[name] = value


def _text(path: str, given: bytes) -> str:
    if given.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _wrong(f"{path}: it is UTF-16: save it as UTF-8")
    try:
        text = given.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = given[: error.start].count(b"\n") + 1
        raise _wrong(f"{path}: line {line} is not UTF-8: save it as UTF-8") from None
    if "\0" in text:
        raise _wrong(f"{path}: it holds null characters: save it as UTF-8")
    return text


def _check_lines(path: str, text: str) -> None:
    """Raise `SettingsError` for the first line that the library would leave out. It may hold a secret."""
    for binding in parse_stream(StringIO(text)):
        valueless = binding.key is not None and binding.value is None
        if binding.error or valueless:
            original = binding.original.string
            blank = len(original) - len(original.lstrip())
            line = binding.original.line + len(_LINE_END.findall(original[:blank]))
            raise _wrong(f"{path}: line {line}: it must be NAME=VALUE")


def _wrong(what: str) -> Exception:
    # It takes longer to load than most commands take to run.
    from gateway.settings import SettingsError

    return SettingsError(what)
