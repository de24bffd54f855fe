"""The routes of what a person sees, in the order in which they are tried."""

from collections.abc import Iterator

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from gateway import web
from gateway.settings import Settings
from gateway.web import errors, reference
from gateway.web.document import PATH, Document


def web_routes(app: FastAPI, settings: Settings, *, with_demo: bool) -> Iterator[BaseRoute]:
    """Yield the routes of the page, the SDK, the page of errors, and of `app`'s API as `settings` want it."""
    if with_demo or settings.mount:
        yield from web.page_routes(settings.mount, demo=with_demo)
    yield from web.router.routes
    yield from errors.router.routes
    if settings.api_docs:
        yield from reference.router.routes
        yield Route(PATH, Document(app, settings.mount).serve, include_in_schema=False)
