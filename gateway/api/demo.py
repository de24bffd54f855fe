"""`POST /demo/notifications`: the demo's user posts to their own inbox, from the page.

It exists only where `gateway serve --demo` runs, which is on loopback. The page is given no key: who posts
is the user who has signed in, to nobody but themselves, and in the name of the service that the demo made.

`POST /demo/session` gives a session for the code of the link that the demo prints. The code stands in the
fragment of that link, which a browser sends to nobody; it is good once, and for ten minutes.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from gateway.api.auth import TokenAnswer, sign_in_by_code
from gateway.api.callers import InboxUser, check_origin, client_address
from gateway.api.json_route import JsonRoute
from gateway.api.notification import Notification
from gateway.api.notifications import post_notification
from gateway.api.oauth import NO_STORE, Form, FormRoute
from gateway.api.state import State
from gateway.auth import services
from gateway.auth.principals import Service
from gateway.errors import InsufficientScope

DEMO = "demo"
"""The user and the service that the demo is made of."""

CODE_SCOPE = "demo"
"""The scope of the ticket that is the code of the link: it opens no socket."""

CODE_TTL = 600
"""How long the link waits to be opened, in seconds."""


async def _same_origin(request: Request) -> None:
    """Refuse the pages of other origins, even those that may call the rest of the API."""
    check_origin(request, ())


router = APIRouter(route_class=JsonRoute)
form_router = APIRouter(route_class=FormRoute)


@router.post("/demo/notifications", status_code=201, include_in_schema=False)
async def post_to_oneself(
    notification: Notification, state: State, user: InboxUser, _: Annotated[None, Depends(_same_origin)]
) -> Response:
    """Post as `POST /v1/notifications` does, from the demo's user to nobody else."""
    if user.sub != DEMO or notification.to != [DEMO]:
        raise InsufficientScope("notify", user.actor)
    row = await state.database.read(services.get_service, DEMO)
    service = Service(row.id, DEMO, frozenset({"notify"}), None, None)
    state.throttle.posts.take(service.id)
    return await post_notification(notification, state, service)


@form_router.post("/demo/session", include_in_schema=False)
async def sign_in_by_link(
    state: State, request: Request, form: Form, response: Response, _: Annotated[None, Depends(_same_origin)]
) -> TokenAnswer:
    """Give what a sign-in with the password gives, for the code of the printed link."""
    response.headers.update(NO_STORE)
    return await sign_in_by_code(state, form.get("code", ""), DEMO, CODE_SCOPE, client_address(request))
