"""The `Administration` of a request: it acts as the calling service and records the address of the client."""

from typing import Annotated

from fastapi import Depends

from gateway.api.audit import Source
from gateway.api.callers import Admin
from gateway.api.state import State
from gateway.auth.administration import Administration


async def _administration(state: State, admin: Admin, source: Source) -> Administration:
    return Administration(state.database, admin.actor, source, on_ended=state.revocation.end)


Administering = Annotated[Administration, Depends(_administration)]
"""The administration, for routes that require a service with the scope `admin`."""
