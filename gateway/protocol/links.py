"""The links of notifications, and the check that a URL is safe to follow."""

from urllib.parse import urlsplit


def is_link(url: str) -> bool:
    """Whether a URL is safe to link to: an absolute http(s) URL, or a path that begins with one slash.

    Browsers drop tabs and line breaks from URLs and read a backslash as a slash, so that a slash, a tab and
    "/host" lead to another host. Characters that reverse or hide text make a link look like another one. URLs
    with such characters are not safe.
    """
    plain = "\\" not in url and " " not in url and url.isprintable()
    local = url.startswith("/") and not url.startswith("//")
    return plain and (local or _is_web_address(url))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port raises ValueError if it isn't a valid port number.
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and parts.scheme in {"http", "https"} and url[len(parts.scheme) :].startswith("://")


def safe_url(url: str | None) -> str | None:
    """Return a stored URL, or None if it isn't safe to link to, however it got into the database."""
    return url if url is not None and is_link(url) else None
