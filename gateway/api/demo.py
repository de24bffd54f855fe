"""`POST /demo/notifications`: the demo's user posts to their own inbox, from the page.

It exists only where `gateway serve --demo` runs, which is on loopback. The page is given no key: who posts
is the user who has signed in, to nobody but themselves, and in the name of the service that the demo made.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from gateway import services
from gateway.api.dependencies import InboxUser, Parts, check_origin
from gateway.api.json_route import JsonRoute
from gateway.api.notification import Notification
from gateway.api.notifications import post_notification
from gateway.errors import InsufficientScope
from gateway.tokens import Service

DEMO = "demo"
"""The user and the service that the demo is made of."""


async def _same_origin(request: Request) -> None:
    """Refuse the pages of other origins, even those that may call the rest of the API."""
    check_origin(request, ())


router = APIRouter(route_class=JsonRoute)


@router.post("/demo/notifications", status_code=201, include_in_schema=False)
async def post_to_oneself(
    notification: Notification, parts: Parts, user: InboxUser, _: Annotated[None, Depends(_same_origin)]
) -> Response:
    """Post as `POST /v1/notifications` does, from the demo's user to nobody else."""
    if user.sub != DEMO or notification.to != [DEMO]:
        raise InsufficientScope("notify", user.actor)
    row = await parts.database.read(services.get_service, DEMO)
    service = Service(row.id, DEMO, frozenset({"notify"}), None, None)
    parts.throttle.posts.take(service.id)
    return await post_notification(notification, parts, service)
