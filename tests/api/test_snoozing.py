"""Snoozing over REST and on the socket, by section 8 of the contract."""

import asyncio
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from gateway.protocol.times import timestamp
from tests.support.actions import wakes
from tests.support.checker import Json
from tests.support.clients import User
from tests.support.servers import LocalServer

RULE = "it must be 1 minute to 366 days ahead"
FORM = "it must be a time with its zone, such as 2026-11-20T09:30:00Z"

INTEGER = "it must be an integer in ms since 1970, or nil"


def ahead(**time: float) -> str:
    """Return a time so far ahead, as the API writes it."""
    moment = datetime.now(UTC) + timedelta(**time)
    return timestamp(int(moment.timestamp() * 1000))


async def snooze(user: User, identifier: str, until: Any, **states: Any) -> Json:
    answer = await user.patch(f"/v1/inbox/{identifier}", json={"snoozed_until": until, **states})
    assert answer.status_code == 200, answer.text
    item: Json = answer.json()
    return item


async def snoozed(user: User, **params: Any) -> list[str]:
    return [item["title"] for item in (await user.inbox(snoozed="true", **params))["items"]]


async def test_a_snoozed_item_is_out_of_the_inbox_until_null_brings_it_back(server: LocalServer) -> None:
    one, _ = await server.service.notify_many("ada", 2)
    ada = await server.user()
    until = ahead(hours=1)
    item = await snooze(ada, one, until, read=True)
    assert (item["snoozed_until"], item["seq"], item["read_at"] is None) == (until, 3, False)
    page = await ada.inbox()
    assert ([item["title"] for item in page["items"]], page["unread"], page["unseen"]) == (["2"], 1, 1)
    assert await snoozed(ada) == ["1"]
    assert (await ada.get(f"/v1/inbox/{one}")).json() == item
    item = await snooze(ada, one, None, read=False)
    assert (item["snoozed_until"], item["seq"], item["read_at"]) == (None, 4, None)
    page = await ada.inbox()
    assert ([item["title"] for item in page["items"]], page["unread"], page["unseen"]) == (["2", "1"], 2, 2)
    assert await snoozed(ada) == []


async def test_a_time_may_have_any_zone(server: LocalServer) -> None:
    (one,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    moment = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    expected = timestamp(int(moment.timestamp() * 1000))
    for zone in (timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-3)), UTC):
        assert (await snooze(ada, one, moment.astimezone(zone).isoformat()))["snoozed_until"] == expected
    assert (await ada.inbox(snoozed="true"))["seq"] == 2


async def test_a_snooze_that_breaks_a_rule_gets_a_422_that_names_it(
    gateway: LocalServer, subtests: pytest.Subtests
) -> None:
    (one,) = await gateway.service.notify_many("ada", 1)
    ada = await gateway.user()
    cases: list[tuple[Any, str]] = [
        (ahead(seconds=50), RULE),
        (ahead(seconds=-50), RULE),
        (ahead(days=367), RULE),
        ("9999-12-31T23:59:59-23:59", RULE),
        (ahead(hours=1)[:-1], FORM),
        (ahead(hours=1)[:10], FORM),
        ("tomorrow", FORM),
        ("2027-02-29T09:30:00Z", "there is no such day or time"),
        ("", FORM),
        (1_800_000_000_000, FORM),
        (True, FORM),
        ({}, FORM),
    ]
    for until, rule in cases:
        with subtests.test(str(until)):
            answer = await ada.patch(f"/v1/inbox/{one}", json={"snoozed_until": until})
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"] == [{"field": "snoozed_until", "message": rule}]
    answer = await ada.patch(f"/v1/inbox/{one}", json={"snoozed_until": None, "archived": False})
    assert answer.status_code == 422
    assert "it must not have archived and snoozed_until" in answer.text
    for body in ({}, {"read": None}):
        answer = await ada.patch(f"/v1/inbox/{one}", json=body)
        assert answer.status_code == 422
        assert "it must have read, archived or snoozed_until" in answer.text
    assert (await ada.inbox())["seq"] == 1
    for days in (366 - 0.01, 0.01):
        await snooze(ada, one, ahead(days=days))


async def test_deleted_and_foreign_items_cannot_be_snoozed(server: LocalServer) -> None:
    one, other = await server.service.notify_many("ada", 2)
    ada, bob = await server.user(), await server.user("bob")
    await ada.delete(f"/v1/inbox/{one}")
    for user, identifier in ((ada, one), (bob, other), (ada, "nonsense")):
        answer = await user.patch(f"/v1/inbox/{identifier}", json={"snoozed_until": ahead(hours=1)})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_archiving_over_rest_ends_a_snooze(server: LocalServer) -> None:
    (one,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    await snooze(ada, one, ahead(hours=1))
    assert (await ada.patch(f"/v1/inbox/{one}", json={"archived": True})).json()["snoozed_until"] is None
    assert await server.state.database.read(wakes) == []
    assert len((await ada.inbox(archived="true"))["items"]) == 1


async def test_the_pages_of_snoozed_items_lead_from_one_to_the_next(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 5)
    ada = await server.user()
    for number, one in enumerate(ids):
        await snooze(ada, one, ahead(hours=9 - number))
    assert await snoozed(ada) == ["5", "4", "3", "2", "1"]
    found: list[str] = []
    path: str | None = "/v1/inbox?snoozed=true&limit=2&category=default"
    while path:
        answer = await ada.get(path)
        body = answer.json()
        found += [item["title"] for item in body["items"]]
        link = re.fullmatch(r'<(.+)>; ?rel="next"', answer.headers.get("link", ""))
        assert (link is None) == (body["next"] is None)
        path = link and link[1]
    assert found == ["5", "4", "3", "2", "1"]
    assert await snoozed(ada, category="other") == []


async def test_the_list_of_snoozed_items_refuses_other_filters_and_cursors(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 4)
    ada = await server.user()
    for one in ids[:2]:
        await snooze(ada, one, ahead(hours=1))
    for more in ({"archived": "true"}, {"unread": "true"}, {"unread": "false"}):
        answer = await ada.get("/v1/inbox", params={"snoozed": "true", **more})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error == {
            "field": "snoozed",
            "message": "it can't stand with unread or archived: leave them out",
        }
    cursor = (await ada.inbox(limit=1))["next"]
    of_snoozed = (await ada.inbox(limit=1, snoozed="true"))["next"]
    for params in (
        {"cursor": of_snoozed},
        {"cursor": cursor, "snoozed": "true"},
        {"cursor": "djE6MTow", "snoozed": "true"},
    ):
        answer = await ada.get("/v1/inbox", params=params)
        assert [error["field"] for error in answer.json()["errors"]] == ["cursor"], answer.text
    assert (await ada.inbox(snoozed="false"))["items"] == (await ada.inbox())["items"]


async def test_the_etag_of_the_list_of_snoozed_items_changes_with_it(server: LocalServer) -> None:
    one, other = await server.service.notify_many("ada", 2)
    ada = await server.user()
    await snooze(ada, one, ahead(hours=1))
    etag = (await ada.get("/v1/inbox?snoozed=true")).headers["etag"]
    known = {"If-None-Match": etag}
    assert (await ada.get("/v1/inbox?snoozed=true", headers=known)).status_code == 304
    await snooze(ada, other, ahead(hours=2))
    assert (await ada.get("/v1/inbox?snoozed=true", headers=known)).status_code == 200


# --- the socket ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_encoding")
async def test_the_command_snoozes_and_every_socket_is_told(gateway: LocalServer) -> None:
    ids = await gateway.service.notify_many("ada", 3)
    ada = await gateway.user()
    async with ada.socket() as socket, ada.socket() as other:
        await socket.until("live")
        await other.until("live")
        until = ahead(hours=1)
        told = await socket.ask_all(type="snooze", ids=[*ids[:2], ids[0].upper()], until=until)
        assert told[-1]["type"] == "ok"
        for changed in (
            told[0] if len(told) > 1 else await socket.next("changed"),
            await other.next("changed"),
        ):
            assert (changed["seq"], changed["unread"], changed["unseen"]) == (4, 1, 1)
            assert [(item["id"], item["snoozed_until"]) for item in changed["items"]] == [
                (one, until) for one in ids[:2]
            ]
        assert (await socket.ask(type="snooze", ids=ids[:1], until=None))["type"] == "ok"
        changed = await other.next("changed")
        assert (changed["seq"], changed["unread"], changed["items"][0]["snoozed_until"]) == (5, 2, None)
    assert [uuid for uuid, _, _ in await gateway.state.database.read(wakes)] == ids[1:2]


async def test_a_snooze_command_that_breaks_a_rule_gets_an_error_that_names_it(
    gateway: LocalServer, each_encoding: str
) -> None:
    form = INTEGER if each_encoding == "msgpack" else FORM
    no_ids = "ids: a list of one or more ids of notifications, and nothing else."
    ids = await gateway.service.notify_many("ada", 1)
    ada = await gateway.user()
    async with ada.socket(since="latest") as socket:
        for fields, detail in (
            ({"ids": ids}, "until: it is required: a time, or null to end the snooze."),
            ({"ids": ids, "until": "soon"}, f"until: {form}."),
            ({"ids": ids, "until": False}, f"until: {form}."),
            ({"ids": ids, "until": 1.5}, f"until: {form}."),
            ({"ids": ids, "until": ahead(seconds=10)}, f"until: {RULE}."),
            ({"ids": ids, "until": ahead(days=400)}, f"until: {RULE}."),
            ({"ids": [], "until": None}, no_ids),
            ({"ids": ["x"], "until": None}, no_ids),
            ({"until": None}, no_ids),
        ):
            error = await socket.ask(type="snooze", **fields)
            assert (error["type"], error["code"], error["detail"]) == ("error", "invalid_field", detail)
    assert (await ada.inbox())["seq"] == 1


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_each_encoding_refuses_the_times_of_the_other(gateway: LocalServer, encoding: str) -> None:
    ids = await gateway.service.notify_many("ada", 1)
    ada = await gateway.user()
    soon = ahead(hours=1)
    form = INTEGER if encoding == "msgpack" else FORM
    async with ada.socket(encoding=encoding) as socket:
        await socket.until("live")
        # The test's own client converts a time, but neither this spelling of it nor a number.
        for until in (soon.replace("T", "t"),) if encoding == "msgpack" else (1_900_000_000_000,):
            error = await socket.ask(type="snooze", ids=ids, until=until)
            assert (error["code"], error["detail"]) == ("invalid_field", f"until: {form}.")


async def test_snoozing_and_deleting_at_once_ends_with_a_deleted_item(server: LocalServer) -> None:
    ada = await server.user()
    for _ in range(5):
        (one,) = await server.service.notify_many("ada", 1)
        statuses = await asyncio.gather(
            ada.patch(f"/v1/inbox/{one}", json={"snoozed_until": ahead(hours=1)}),
            ada.delete(f"/v1/inbox/{one}"),
        )
        assert statuses[0].status_code in {200, 404}
        assert statuses[1].status_code == 204
        assert (await ada.get(f"/v1/inbox/{one}")).status_code == 404
    assert await server.state.database.read(wakes) == []
    assert await snoozed(ada) == []
