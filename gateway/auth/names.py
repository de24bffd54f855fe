"""The names of users and services: maximum lengths and forbidden characters."""

import re

MAX_SUB = 255
"""Maximum length of a user's `sub`, in characters."""

MAX_NAME = 200
"""Maximum length of a service's name, in characters."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_identifier(text: str, longest: int) -> str:
    """Return a name. Raises ValueError if it is empty, too long, or has control characters or surrogates."""
    if not 1 <= len(text) <= longest:
        raise ValueError(f"it must have 1 to {longest} characters")
    if _UNPRINTABLE.search(text):
        raise ValueError("it must not have control characters")
    return text


def check_sub(sub: str) -> str:
    """Return the `sub` of a user. Raises ValueError if it is not a valid `sub`."""
    if sub in {".", ".."}:
        # Clients and proxies remove such segments from paths (RFC 3986, section 5.2.4).
        raise ValueError("it must not be '.' or '..', which no path can hold")
    return check_identifier(sub, MAX_SUB)


def check_name(name: str) -> str:
    """Return the name of a service. Raises ValueError if it is not a valid name."""
    return check_identifier(name, MAX_NAME)
