"""The administration of a request: on its database, by the service that calls, from where it calls."""

from typing import Annotated

from fastapi import Depends

from gateway.api.callers import Admin
from gateway.api.state import Parts
from gateway.api.trail import Source
from gateway.auth.administration import Administration


async def _administration(parts: Parts, admin: Admin, source: Source) -> Administration:
    return Administration(parts.database, admin.actor, source, on_ended=parts.revocation.end)


Administering = Annotated[Administration, Depends(_administration)]
"""What a service with the scope `admin` may do."""
