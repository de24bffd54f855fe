"""Environment variables whose names look like settings: misspelt ones, and those that Kubernetes injects."""

import os
import re
from collections.abc import Iterator

from gateway.settings.wording import nearest

PREFIX = "GATEWAY_"
_OF_CLIENTS = ("URL", "KEY", "TOKEN")

# The variables that Kubernetes sets in each container of a namespace with a service called "gateway…"
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_INJECTED = re.compile(
    r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(_\w+)?|\w+_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?", re.ASCII
)
_INJECTED_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


def forget_injected() -> None:
    """Remove a `GATEWAY_PORT` that Kubernetes has set for a service called gateway: it is not a setting."""
    if _INJECTED_ADDRESS.fullmatch(os.environ.get(f"{PREFIX}PORT", "")):
        del os.environ[f"{PREFIX}PORT"]


def misspelt() -> Iterator[str]:
    """Yield a line for each variable that has a setting's prefix and is not a setting. It shows no value."""
    # Imported here because it takes longer to load than most commands take to run.
    from gateway.settings import Settings

    known = {name.upper() for name in (*Settings.model_fields, *_OF_CLIENTS)}
    for name, value in sorted(os.environ.items()):
        # The case of a name does not matter. Compare without the prefix, which would make all names similar.
        bare = name.upper().removeprefix(PREFIX)
        if bare in {name.upper(), *known} or _INJECTED.fullmatch(name):
            continue
        if name.endswith("_PORT") and _INJECTED_ADDRESS.fullmatch(value):
            continue
        near = nearest(bare, known)
        hint = f": did you mean {PREFIX}{near}?" if near else ""
        yield f"{name} is not a setting{hint}"
