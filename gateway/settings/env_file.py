"""The `.env` file in the folder in which a command is started."""

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
    """Add the settings of the file to the environment, except those that the environment has already.

    Raises `SettingsError` if the file cannot be read, is not UTF-8, or has a line that is not `NAME=VALUE`.
    """
    file = Path(path)
    try:
        # Ignore a folder: `.env` may be a virtual environment. Refuse a pipe: reading it would block.
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise _wrong(f"{path}: it is not a regular file: put NAME=VALUE lines into one")
        given = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise _wrong(f"{path}: it cannot be read: {error.strerror}") from None
    text = _text(path, given)
    _check_lines(path, text)
    # The case of a name does not matter: a variable in the environment wins over one in the file.
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
    """Raise `SettingsError` for the first line that the library would skip.

    The error names the number of the line and not its text, which may hold a secret.
    """
    for binding in parse_stream(StringIO(text)):
        valueless = binding.key is not None and binding.value is None
        if binding.error or valueless:
            original = binding.original.string
            blank = len(original) - len(original.lstrip())
            line = binding.original.line + len(_LINE_END.findall(original[:blank]))
            rule = "a quote is not closed" if _is_quote_open(original) else "it must be NAME=VALUE"
            raise _wrong(f"{path}: line {line}: {rule}")


_ESCAPED = re.compile(r"\\.", re.DOTALL)


def _is_quote_open(text: str) -> bool:
    """Return whether the value of a refused line begins with a quote that isn't closed on its line.

    To the library, the next quote of its kind closes it, which may be lines below.
    """
    value = text.partition("=")[2].lstrip()
    quote = value[:1]
    if quote not in {"'", '"'}:
        return False
    inside, closing, _ = _ESCAPED.sub("", value[1:]).partition(quote)
    return not closing or "\n" in inside


def _wrong(what: str) -> Exception:
    # Imported here because it takes longer to load than most commands take to run.
    from gateway.settings import SettingsError

    return SettingsError(what)
