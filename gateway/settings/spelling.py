"""Names of the environment that are nearly those of settings."""

import os
import re
from collections.abc import Iterator

from gateway.settings.wording import nearest

PREFIX = "GATEWAY_"
_OF_CLIENTS = ("URL", "KEY", "TOKEN")

# What Kubernetes gives each container of a namespace for a service whose name begins with "gateway"
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_INJECTED = re.compile(
    r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(_\w+)?|\w+_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?", re.ASCII
)
_INJECTED_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


def forget_injected() -> None:
    """Remove a `GATEWAY_PORT` that Kubernetes has made of a service called gateway: it is no setting."""
    if _INJECTED_ADDRESS.fullmatch(os.environ.get(f"{PREFIX}PORT", "")):
        del os.environ[f"{PREFIX}PORT"]


def misspelt() -> Iterator[str]:
    """Yield a line for each variable that begins like a setting and is none. A value is not shown."""
    # It takes longer to load than most commands take to run.
    from gateway.settings import Settings

    known = {name.upper() for name in (*Settings.model_fields, *_OF_CLIENTS)}
    for name, value in sorted(os.environ.items()):
        # Settings are read in any case. What all of them begin with makes no two of them alike.
        bare = name.upper().removeprefix(PREFIX)
        if bare in {name.upper(), *known} or _INJECTED.fullmatch(name):
            continue
        if name.endswith("_PORT") and _INJECTED_ADDRESS.fullmatch(value):
            continue
        near = nearest(bare, known)
        hint = f": did you mean {PREFIX}{near}?" if near else ""
        yield f"{name} is no setting{hint}"
