"""The administration of a request: on its database, by the service that calls, from where it calls."""

from typing import Annotated

from fastapi import Depends

from gateway.api.audit import Source
from gateway.api.callers import Admin
from gateway.api.state import State
from gateway.auth.administration import Administration


async def _administration(state: State, admin: Admin, source: Source) -> Administration:
    return Administration(state.database, admin.actor, source, on_ended=state.revocation.end)


Administering = Annotated[Administration, Depends(_administration)]
"""What a service with the scope `admin` may do."""
