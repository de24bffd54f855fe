"""The mount point: the path of a site that a proxy hands to the gateway, such as `/notify`.

A request may come with it or without it: some proxies take it away, others cannot. Within the gateway no path
has it; what is sent to a client (`Location`, `Link`, the pages, the OpenAPI) begins with it.
"""

from urllib.parse import unquote_to_bytes

PRIVATE = b"/metrics"
"""Not served below a mount point: so a proxy keeps it from the outside with one rule, for one path."""


def unmounted(target: bytes, mount: bytes) -> bytes:
    """Return a request target without the mount point, where it begins with that."""
    start = 0 if target.startswith(b"/") else _end_of_authority(target)
    rest = target[start + len(mount) :]
    if not target.startswith(mount, start) or not rest.startswith(b"/"):
        return target
    return target if unquote_to_bytes(rest).startswith(PRIVATE) else target[:start] + rest


def _end_of_authority(target: bytes) -> int:
    """Return where the path of a whole URL begins (RFC 9112, section 3.2.2)."""
    found = target.find(b"/", target.find(b"://") + 3)
    return len(target) if found < 0 else found
