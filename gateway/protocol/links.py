"""The links of notifications: which URLs are safe to follow."""

from urllib.parse import urlsplit


def is_link(url: str) -> bool:
    """Whether a URL is safe to link to: an absolute http(s) URL, or a path that begins with one slash.

    Browsers drop tabs and line breaks from URLs and read a backslash as a slash, so that a slash, a tab and
    "/host" lead to another host. What turns or hides text makes a link look like another. Neither is safe.
    """
    plain = "\\" not in url and " " not in url and url.isprintable()
    local = url.startswith("/") and not url.startswith("//")
    return plain and (local or _is_web_address(url))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Asking for the port raises ValueError where it is no number that a port can be.
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and parts.scheme in {"http", "https"} and url[len(parts.scheme) :].startswith("://")


def safe_url(url: str | None) -> str | None:
    """Return a stored URL, or None for one that is not safe to link to, however it was stored."""
    return url if url is not None and is_link(url) else None
