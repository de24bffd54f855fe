"""The URL that clients reach the gateway at, which the settings name."""

import re
from urllib.parse import urlsplit

# No segment is `.` or `..`: clients take those away.
_MOUNT = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")


def read_public_url(text: str) -> str:
    """Return the URL of the gateway without a slash at its end. Raises ValueError, whose text is the rule."""
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
    """Return the path of a URL that `read_public_url` has returned: empty, or without a slash at its end."""
    return urlsplit(url).path
