"""The mount point: the path, such as `/notify`, under which a proxy serves the gateway on a site.

A request may arrive with or without it: some proxies strip it, others cannot. Paths inside the gateway never
contain it. Everything sent to a client (`Location`, `Link`, the pages, the OpenAPI document) begins with it.
"""

from urllib.parse import unquote_to_bytes

UNMOUNTED_ONLY = b"/metrics"
"""A path that isn't served below the mount point, so that a proxy needs only one rule to keep it private."""


def unmounted(target: bytes, mount: bytes) -> bytes:
    """Return a request target without the mount point, if its path begins with it."""
    start = 0 if target.startswith(b"/") else _end_of_authority(target)
    rest = target[start + len(mount) :]
    if not target.startswith(mount, start) or not rest.startswith(b"/"):
        return target
    return target if unquote_to_bytes(rest).startswith(UNMOUNTED_ONLY) else target[:start] + rest


def _end_of_authority(target: bytes) -> int:
    """Return the index at which the path of an absolute URL begins (RFC 9112, section 3.2.2)."""
    found = target.find(b"/", target.find(b"://") + 3)
    return len(target) if found < 0 else found
