"""Whatever a request looks like that the OpenAPI allows, or just not, the gateway does not fail."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.clients import Service, http_client
from tests.support.databases import API_KEY
from tests.support.servers import Process

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 20
"""How many requests for each operation that keep to the schema, and how many that do not."""


def test_no_request_makes_the_gateway_fail(database_url: str, tmp_path: Path) -> None:
    # All of it comes from one user and one service.
    gateway = Process(
        database_url,
        tmp_path,
        max_sockets_per_user=1,
        commands_per_second=1e6,
        service_calls_per_second=1e6,
    )
    try:
        asyncio.run(gateway.start())
        user, listener = (asyncio.run(mint(gateway.base, sub)) for sub in ("ada", "bob"))
        schema = schemathesis.openapi.from_url(f"{gateway.base}/openapi.json")
        operations = [cast("Ok[Any]", result).ok() for result in schema.get_all_operations()]
        assert len(operations) > 20
        statuses: set[int] = set()
        tokens = {"/v1/auth/ticket": user, "/v1/stream": listener}
        with one_stream_open(gateway.base, listener):
            for operation in operations:
                own = user if operation.path.startswith("/v1/inbox") else API_KEY
                fuzz(operation, tokens.get(operation.path, own), statuses)
        assert {200, 201, 204, 404, 422} <= statuses
        assert gateway.runs
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()[-4000:]
    finally:
        if gateway.runs:
            gateway.kill()


async def mint(base: str, sub: str) -> str:
    async with http_client(base) as http:
        return await Service(http, API_KEY).mint(sub, ttl=3600)


@contextmanager
def one_stream_open(base: str, token: str) -> Iterator[None]:
    """Hold the one stream that its user may have, so that any other ends at once, and can be looked at."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.stream("GET", f"{base}/v1/stream", headers=headers, timeout=None, trust_env=False) as held:
        # Whoever lets go of what it iterates over has hung up.
        events = held.iter_raw()
        assert next(events)
        yield
        del events


def fuzz(operation: schemathesis.APIOperation[Any, Any, Any, Any], token: str, statuses: set[int]) -> None:
    for mode in GenerationMode:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        def call(case: schemathesis.Case[Any]) -> None:
            response = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=10)
            # Headers that are no HTTP are refused by the server below the application.
            if "This is not HTTP/1.1" not in response.text:
                case.validate_response(response, checks=CHECKS)
                statuses.add(response.status_code)

        # There is nothing to be wrong about a request that takes nothing.
        with suppress(Unsatisfiable) if mode.is_negative else nullcontext():
            call()
