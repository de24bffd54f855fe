"""The routes of the pages and the SDK, in the order in which routing tries them."""

from collections.abc import Iterator

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from gateway import web
from gateway.settings import Settings
from gateway.web import errors, reference
from gateway.web.document import PATH, Document


def web_routes(app: FastAPI, settings: Settings, *, with_demo: bool) -> Iterator[BaseRoute]:
    """Yield the routes of the inbox page, the SDK and the errors; those of the API docs if enabled."""
    if with_demo or settings.mount:
        yield from web.page_routes(settings.mount, demo=with_demo)
    yield from web.router.routes
    yield from errors.router.routes
    if settings.api_docs:
        yield from reference.router.routes
        yield Route(PATH, Document(app, settings.mount).serve, include_in_schema=False)
