"""The public URL at which clients reach the gateway, as a setting names it."""

import re
from urllib.parse import urlsplit

# No segment is `.` or `..`, because clients remove them.
_MOUNT = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")


def read_public_url(text: str) -> str:
    """Return the public URL without a trailing slash. Raises ValueError with the rule if it is invalid."""
    text = text.rstrip("/")
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise ValueError("it must be a URL such as https://notify.example.com") from None
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
        raise ValueError("it must be a URL such as https://notify.example.com")
    if any(mark in text for mark in "?#"):
        raise ValueError("it must have no query and no fragment")
    if not _MOUNT.fullmatch(url.path):
        raise ValueError("its path must be segments of letters, digits, . _ ~ -, such as /notify")
    return text


def path_of(url: str) -> str:
    """Return the path of a URL from `read_public_url`: empty, or without a trailing slash."""
    return urlsplit(url).path
