"""The routes of the API, in the order in which routing tries them."""

from collections.abc import Iterator

from starlette.routing import BaseRoute

from gateway.api import (
    auth,
    demo,
    health,
    inbox,
    monitoring,
    notifications,
    preferences,
    sent,
    sent_answers,
    services,
    socket,
    stream,
    tickets,
    users,
    well_known,
)


def api_routes(*, with_demo: bool) -> Iterator[BaseRoute]:
    """Yield the routes, with the hot paths first.

    Add them to the application's own routes: routing looks up each route of an included router twice.
    """
    for router in (
        notifications.post_router,
        socket.router,
        notifications.batch_router,
        sent.router,
        sent_answers.router,
        preferences.inbox_router,  # before the item whose id would be `preferences`
        inbox.router,
        stream.router,
        auth.router,
        tickets.router,
        well_known.router,
        health.router,
        users.router,
        preferences.users_router,
        services.router,
        monitoring.router,
    ):
        yield from router.routes
    if with_demo:
        yield from (*demo.router.routes, *demo.form_router.routes)
