"""Routes of the demo: they exist only under `gateway serve --demo`, which listens on loopback.

`POST /demo/notifications` lets the demo's user post to their own inbox from the page. The page gets no API
key: the signed-in user can only post to themselves, on behalf of the service that the demo creates.

`POST /demo/session` exchanges the code of the link that the demo prints for a session. The code is in the
link's fragment, which browsers never send. It works once, within ten minutes.
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
"""The `sub` of the demo's user, and the `client_id` of its service."""

CODE_SCOPE = "demo"
"""Scope of the ticket in the link: it can't open a socket."""

CODE_TTL_SECONDS = 600
"""How long the link stays valid, in seconds."""


async def _same_origin(request: Request) -> None:
    """Refuse pages of other origins, even of those in `GATEWAY_ALLOWED_ORIGINS`."""
    check_origin(request, ())


router = APIRouter(route_class=JsonRoute)
form_router = APIRouter(route_class=FormRoute)


@router.post("/demo/notifications", status_code=201, include_in_schema=False)
async def post_to_oneself(
    notification: Notification, state: State, user: InboxUser, _: Annotated[None, Depends(_same_origin)]
) -> Response:
    """Post like `POST /v1/notifications`, from the demo's user to themselves only."""
    if user.sub != DEMO or notification.to != [DEMO]:
        raise InsufficientScope("notify", user.actor)
    row = await state.database.read(services.get_service, DEMO)
    service = Service(row.id, DEMO, frozenset({"notify"}), None, None)
    state.rate_limits.posts.take(service.id)
    return await post_notification(notification, state, service)


@form_router.post("/demo/session", include_in_schema=False)
async def sign_in_by_link(
    state: State, request: Request, form: Form, response: Response, _: Annotated[None, Depends(_same_origin)]
) -> TokenAnswer:
    """Exchange the code of the printed link for the tokens that a sign-in with the password returns."""
    response.headers.update(NO_STORE)
    return await sign_in_by_code(state, form.get("code", ""), DEMO, CODE_SCOPE, client_address(request))
