"""The doubles of the tests are as strict as what they stand for: both are played the same calls.

The elements are tested with `fake_client.js` instead of a client, and the client with the gateway in memory
of `sdk/world.js`. A double that is kinder than the real thing hides every fault that it forgives.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import LocalServer
from tests.support.waiting import PATIENCE
from tests.web.test_sdk import DEADLINE, NODE

SCRIPT = Path(__file__).parent / "sdk/conformance.js"


ACTIONS = [{"id": "yes", "label": "Yes"}, {"id": "say", "label": "Say", "reply": True}]


async def an_inbox_of_every_kind(server: LocalServer) -> None:
    """Post read and unread, archived and unarchived items of three categories, most with actions."""
    ada = await server.user()
    ids = []
    for number, category in enumerate(("ci", "orders", "default", "ci", "orders", "default", "ci", "orders")):
        answer = await server.service.notify("ada", f"Title {number}", category=category, actions=ACTIONS)
        ids.append(answer["id"])
    for read in ids[:4]:
        assert (await ada.patch(f"/v1/inbox/{read}", json={"read": True})).status_code == 200
    for archived in ids[2:6]:
        assert (await ada.patch(f"/v1/inbox/{archived}", json={"archived": True})).status_code == 200
    await server.service.notify_many("ada", 4)


async def answers_of(server: LocalServer, what: str) -> tuple[list[Any], list[Any]]:
    """Return what the double has answered, and what the real thing has."""
    token = await server.service.mint("ada")
    node = await asyncio.create_subprocess_exec(
        NODE,
        "--disable-warning=ExperimentalWarning",
        str(SCRIPT),
        server.base,
        token,
        what,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(max(DEADLINE, PATIENCE)):
        said, troubles = await node.communicate()
    assert node.returncode == 0, troubles.decode()
    played = json.loads(said)
    return played["double"], played["real"]


@pytest.mark.parametrize("what", ["client", "gateway"])
async def test_a_test_double_answers_each_call_like_the_real_object(
    server: LocalServer, what: str, subtests: pytest.Subtests
) -> None:
    await an_inbox_of_every_kind(server)
    double, real = await answers_of(server, what)
    assert len(double) == len(real) > 30
    for given, expected in zip(double, real, strict=True):
        with subtests.test(str(expected)[:80]):
            assert given == expected
