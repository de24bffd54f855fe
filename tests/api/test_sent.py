"""What senders do with notifications: schedule, edit, take back, let expire, replace."""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gateway.database.models import metadata
from gateway.protocol.times import read_moment
from gateway.store.collapse_keys import MAX_ITEMS
from gateway.store.due_steps import Advance
from gateway.store.lifecycle import Withdrawal
from tests.support.checker import Json
from tests.support.clients import Service, User
from tests.support.servers import LocalServer, StartServer
from tests.support.waiting import until

ACTIONS = [{"id": "ok", "label": "Approve", "style": "primary"}, {"id": "no", "label": "Deny", "reply": True}]


def moment(seconds: float) -> str:
    """Return a time so many seconds ahead."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


async def sent(service: Service, identifier: str) -> Json:
    answer = await service.get(f"/v1/notifications/{identifier}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def edit(service: Service, identifier: str, **members: Any) -> Any:
    return await service.patch(f"/v1/notifications/{identifier}", json=members)


async def take_back(service: Service, identifier: str, **headers: str) -> Any:
    return await service.delete(f"/v1/notifications/{identifier}", headers=headers)


async def titles(user: User, **params: Any) -> list[str]:
    return [item["title"] for item in (await user.inbox(**params))["items"]]


async def head(user: User) -> tuple[int, int, int]:
    page = await user.inbox()
    return page["seq"], page["unread"], page["unseen"]


async def state_is(service: Service, identifier: str, state: str) -> None:
    async def reached() -> bool:
        return bool((await sent(service, identifier))["state"] == state)

    await until(reached, f"the notification is {state}")


async def move(server: LocalServer, identifier: str, **columns: int) -> None:
    """Set the due times of a notification's work in the past or the future, as if time had passed."""
    await move_all(server, {identifier: columns})


async def move_all(server: LocalServer, moves: dict[str, dict[str, int]]) -> None:
    """Do so for several at once: none is looked for in between."""

    def change(connection: Connection) -> None:
        for identifier, columns in moves.items():
            (key,) = connection.execute(
                text("SELECT id FROM notifications WHERE uuid = :uuid"), {"uuid": identifier}
            ).one()
            for name, value in columns.items():
                connection.execute(
                    text(f"UPDATE notifications SET {name} = :value WHERE id = :key"),
                    {"value": value, "key": key},
                )
            due = {"value": min(columns.values()), "key": key}
            connection.execute(text("UPDATE due_work SET due_at = :value WHERE notification_id = :key"), due)

    await server.state.database.write(change)


def now() -> int:
    return int(time.time() * 1000)


# --- icon and actions ---------------------------------------------------------------------------------------


async def test_an_icon_and_actions_arrive_with_their_defaults(server: LocalServer) -> None:
    await server.service.notify("ada", icon="/parcel.svg", actions=ACTIONS)
    (item,) = (await (await server.user()).inbox())["items"]
    assert item["icon"] == "/parcel.svg"
    assert item["actions"] == [
        {"id": "ok", "label": "Approve", "style": "primary", "url": None, "reply": False},
        {"id": "no", "label": "Deny", "style": "default", "url": None, "reply": True},
    ]


@pytest.mark.parametrize(
    ("members", "field", "rule"),
    [
        ({"icon": "javascript:x"}, "icon", "absolute http or https URL"),
        ({"actions": []}, "actions", "at least 1"),
        ({"actions": [{"id": str(n), "label": "x"} for n in range(5)]}, "actions", "at most 4"),
        ({"actions": [{"id": "a", "label": "x"}] * 2}, "actions", "an id of its own"),
        ({"actions": [{"id": "A", "label": "x"}]}, "actions.0.id", "small letters, digits, _ -"),
        ({"actions": [{"id": "a", "label": ""}]}, "actions.0.label", "at least 1"),
        ({"actions": [{"id": "a", "label": " \u200b\u00a0"}]}, "actions.0.label", "a visible character"),
        ({"actions": [{"id": "a", "label": "x", "style": "red"}]}, "actions.0.style", "danger"),
        ({"actions": [{"id": "a", "label": "x", "url": "//host"}]}, "actions.0.url", "one slash"),
        (
            {"actions": [{"id": "a", "label": "x", "color": 1}]},
            "actions.0.color",
            "only id, label",
        ),
        (
            {"actions": [{"id": "a", "label": "x", "titel": 1}]},
            "actions.0.titel",
            "only id, label",
        ),
        ({"actions": [{"id": "a", "label": "x", "lable": 1}]}, "actions.0.lable", "did you mean label?"),
        ({"deliver_at": "tomorrow"}, "deliver_at", "2026-11-20T09:30:00Z"),
        ({"deliver_at": "2026-11-20T09:30:00"}, "deliver_at", "with its zone"),
        ({"deliver_at": 1_795_167_000}, "deliver_at", "with its zone"),
        ({"deliver_at": "2026-02-30T09:30:00Z"}, "deliver_at", "there is no such day or time"),
        ({"deliver_at": moment(367 * 86_400)}, "deliver_at", "366 days"),
        ({"ttl": 0}, "ttl", "1"),
        ({"ttl": 31_622_401}, "ttl", "31,622,400"),
        ({"ttl": 5, "expires_at": moment(5000)}, "expires_at", "if there is a ttl"),
        ({"expires_at": moment(-5)}, "expires_at", "in the future"),
        ({"deliver_at": moment(9000), "expires_at": moment(5000)}, "expires_at", "later than deliver_at"),
        ({"collapse_key": "ä"}, "collapse_key", "only the letters a-z and A-Z, the digits 0-9, . _ : -"),
        ({"collapse_key": "x" * 65}, "collapse_key", "64"),
    ],
)
async def test_an_option_that_breaks_a_rule_is_named(
    server: LocalServer, members: Json, field: str, rule: str
) -> None:
    answer = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x", **members})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert rule in error["message"]
    batch = await server.service.post(
        "/v1/notifications/batch", json=[{"to": "a", "title": "x"}, {"to": "ada", "title": "x", **members}]
    )
    assert batch.status_code == 422, batch.text
    assert batch.json()["errors"][0]["field"] == f"1.{field}"


# --- scheduled ----------------------------------------------------------------------------------------------


async def test_a_scheduled_notification_has_no_item_until_it_is_due(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", "later", deliver_at=moment(1.5))
    assert posted["state"] == "scheduled"
    assert await head(ada) == (0, 0, 0)
    assert (await sent(server.service, posted["id"]))["reached"] == 0
    async with ada.socket(since=0) as socket:
        await socket.until("live")
        message = await socket.next("notification")
        assert message["notification"]["id"] == posted["id"]
        assert message["notification"]["created_at"] >= posted["created_at"]
    assert await head(ada) == (1, 1, 1)
    now_known = await sent(server.service, posted["id"])
    assert (now_known["state"], now_known["reached"]) == ("delivered", 1)


async def test_a_time_of_delivery_in_the_past_means_now(server: LocalServer) -> None:
    for past in (moment(-60), "1969-07-20T20:17:40Z", "0001-01-01T00:00:00+14:00"):
        assert (await server.service.notify("ada", deliver_at=past))["state"] == "delivered"
    assert await head(await server.user()) == (3, 3, 3)


async def test_due_notifications_are_delivered_in_the_order_of_their_times(server: LocalServer) -> None:
    ada = await server.user()
    ids = {}
    for title, seconds in (("third", 30), ("first", 10), ("second", 20)):
        ids[title] = (await server.service.notify("ada", title, deliver_at=moment(100 + seconds)))["id"]
    ago = {"third": 1000, "second": 2000, "first": 3000}
    await move_all(server, {ids[title]: {"deliver_at": now() - before} for title, before in ago.items()})
    await state_is(server.service, ids["third"], "delivered")
    assert await titles(ada) == ["third", "second", "first"]


async def test_a_scheduled_notification_can_be_cancelled_once_and_for_all(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", "never", deliver_at=moment(100))
    for _ in range(2):
        answer = await take_back(server.service, posted["id"], **{"If-Match": '"scheduled"'})
        assert (answer.status_code, answer.json()) == (
            200,
            {"state": "cancelled", "recipients": 1, "seen": 0, "read": 0},
        )
    assert (await sent(server.service, posted["id"]))["title"] is None
    assert await head(ada) == (0, 0, 0)


async def test_a_list_of_conditions_matches_if_one_of_them_does(server: LocalServer) -> None:
    posted = await server.service.notify("ada", deliver_at=moment(100))
    answer = await take_back(server.service, posted["id"], **{"If-Match": '"x", "scheduled"'})
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    empty = await server.service.patch(f"/v1/notifications/{posted['id']}", json={})
    assert empty.json()["detail"] == "body: the request must have a member to change, such as title"


async def test_an_administrator_cancels_what_a_deleted_service_has_scheduled(server: LocalServer) -> None:
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    path = f"/v1/services/{made.json()['client_id']}"
    other = Service(server.http, (await server.service.post(f"{path}/keys")).json()["key"])
    posted = await other.notify("ada", deliver_at=moment(100))
    assert (await server.service.delete(path)).status_code == 204
    waiting = (await server.service.get("/v1/notifications", params={"state": "scheduled"})).json()["items"]
    assert [one["id"] for one in waiting] == [posted["id"]]
    assert (await take_back(server.service, posted["id"])).json()["state"] == "cancelled"


async def test_a_delivered_notification_is_kept_if_only_a_scheduled_one_may_be_taken_back(
    server: LocalServer,
) -> None:
    posted = await server.service.notify("ada")
    answer = await take_back(server.service, posted["id"], **{"If-Match": '"scheduled"'})
    assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
    for condition, said in (('"x"', "only condition"), ("scheduled", "in double quotes"), ("", "in double")):
        answer = await take_back(server.service, posted["id"], **{"If-Match": condition})
        assert (answer.status_code, said in answer.json()["detail"]) == (412, True)
    listed = await take_back(server.service, posted["id"], **{"If-Match": '"x", "scheduled"'})
    assert "It is not scheduled any more" in listed.json()["detail"]
    assert await head(await server.user()) == (1, 1, 1)


async def test_a_scheduled_notification_is_edited_in_place(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", "old", deliver_at=moment(100), body="b")
    answer = await edit(server.service, posted["id"], title="new", body=None, deliver_at=moment(-1))
    assert answer.status_code == 200, answer.text
    await state_is(server.service, posted["id"], "delivered")
    (item,) = (await ada.inbox())["items"]
    assert (item["title"], item["body"], item["edited_at"], item["seq"]) == ("new", None, None, 1)


async def test_a_scheduled_notification_with_the_key_of_another_takes_its_place(server: LocalServer) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    both = await server.service.notify(["ada", "bob"], "1", deliver_at=moment(100), collapse_key="k")
    mine = await server.service.notify("ada", "2", deliver_at=moment(100), collapse_key="k")
    last = await server.service.notify("bob", "3", deliver_at=moment(100), collapse_key="k")
    assert (await sent(server.service, both["id"]))["state"] == "cancelled"
    for posted in (mine, last):
        await edit(server.service, posted["id"], deliver_at=moment(-1))
        await state_is(server.service, posted["id"], "delivered")
    assert (await titles(ada), await titles(bob)) == (["2"], ["3"])


async def test_scheduled_notifications_of_one_batch_take_the_place_of_each_other(server: LocalServer) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    earlier = await server.service.notify(["ada", "bob"], "0", deliver_at=moment(100), collapse_key="k")
    later = {"deliver_at": moment(100), "collapse_key": "k"}
    posts = [
        {"to": ["ada", "bob"], "title": "1", **later},
        {"to": "ada", "title": "2", **later},
        {"to": "ada", "title": "3", **later},
        {"to": "ada", "title": "4", **later, "collapse_key": "other"},
    ]
    batch = (await server.service.post("/v1/notifications/batch", json=posts)).json()["items"]
    ids = [earlier["id"], *(item["id"] for item in batch)]
    states = [(await sent(server.service, one))["state"] for one in ids]
    assert states == ["cancelled", "scheduled", "cancelled", "scheduled", "scheduled"]
    assert (await sent(server.service, ids[2]))["title"] is None
    await move_all(server, {ids[place]: {"deliver_at": place} for place in (1, 3, 4)})
    await state_is(server.service, ids[4], "delivered")
    assert (await titles(ada), await titles(bob)) == (["4", "3"], ["1"])
    assert counts(await sent(server.service, ids[1])) == (2, 1, 0, 0, 0, 0)


async def test_an_erased_user_gets_nothing_that_was_scheduled(server: LocalServer) -> None:
    await server.user()
    alone = await server.service.notify("ada", "secret", deliver_at=moment(100))
    both = await server.service.notify(["ada", "bob"], "both", deliver_at=moment(100))
    assert (await server.service.delete("/v1/users/ada")).status_code == 204
    await until(lambda: gone(server.service, alone["id"]), "the notification is gone")
    await edit(server.service, both["id"], deliver_at=moment(-1))
    await state_is(server.service, both["id"], "delivered")
    assert await head(await server.user()) == (0, 0, 0)
    assert await titles(await server.user("bob")) == ["both"]


async def gone(service: Service, identifier: str) -> bool:
    return (await service.get(f"/v1/notifications/{identifier}")).status_code == 404


# --- edits --------------------------------------------------------------------------------------------------


async def test_an_edit_reaches_every_inbox_quietly(server: LocalServer) -> None:
    users = [await server.user(sub) for sub in ("ada", "bob", "cleo")]
    posted = await server.service.notify(["ada", "bob", "cleo"], "old", url="/a", data={"n": 1})
    await users[1].patch(f"/v1/inbox/{posted['id']}", json={"read": True})
    await users[2].patch(f"/v1/inbox/{posted['id']}", json={"archived": True})
    before = [await head(user) for user in users]
    async with users[0].socket(since=1) as socket:
        await socket.until("live")
        answer = await edit(
            server.service, posted["id"], title="new", url=None, data={"n": 2}, priority="high"
        )
        assert (answer.status_code, answer.json()["title"]) == (200, "new")
        (item,) = (await socket.next("changed"))["items"]
    assert (item["title"], item["url"], item["data"], item["priority"]) == ("new", None, {"n": 2}, "high")
    assert item["edited_at"] is not None
    for user, (seq, unread, unseen) in zip(users, before, strict=True):
        assert await head(user) == (seq + 1, unread, unseen)
    assert (await users[1].inbox())["items"][0]["read_at"] is not None
    assert await titles(users[2], archived="true") == ["new"]


async def test_an_edit_with_renotify_lets_the_item_enter_again(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", "first")
    await server.service.notify("ada", "second")
    await ada.patch(f"/v1/inbox/{posted['id']}", json={"read": True, "archived": True})
    await ada.post("/v1/inbox/seen", json={"up_to": 3})
    assert await head(ada) == (3, 1, 0)
    async with ada.socket(since=3) as socket:
        await socket.until("live")
        await edit(server.service, posted["id"], title="again", renotify=True)
        message = await socket.next("notification")
    assert (message["notification"]["created_seq"], message["unread"], message["unseen"]) == (4, 2, 1)
    assert await titles(ada) == ["again", "second"]
    assert await head(ada) == (4, 2, 1)


async def test_an_edit_of_what_has_ended_is_refused(server: LocalServer) -> None:
    posted = await server.service.notify("ada")
    late = await edit(server.service, posted["id"], deliver_at=moment(9))
    assert (late.status_code, late.json()["code"]) == (409, "already_delivered")
    await take_back(server.service, posted["id"])
    ended = await edit(server.service, posted["id"], title="x")
    assert (ended.status_code, ended.json()["code"]) == (409, "notification_ended")
    assert "unsent" in ended.json()["detail"]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "body"),
        ({"title": None}, "title"),
        ({"priority": None}, "priority"),
        ({"deliver_at": None}, "deliver_at"),
        ({"category": "x"}, "category"),
        ({"expires_at": moment(-5)}, "expires_at"),
        ({"actions": []}, "actions"),
    ],
)
async def test_an_edit_that_breaks_a_rule_names_it(server: LocalServer, members: Json, field: str) -> None:
    posted = await server.service.notify("ada")
    answer = await edit(server.service, posted["id"], **members)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field


async def test_another_service_neither_sees_nor_changes_a_notification(server: LocalServer) -> None:
    posted = await server.service.notify("ada")
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    path = f"/v1/services/{made.json()['client_id']}/keys"
    other = Service(server.http, (await server.service.post(path)).json()["key"])
    missing = "01a1fbec-66d3-7f3c-b907-ac5c85c58cb1"
    answers = [
        [
            await other.get(f"/v1/notifications/{identifier}"),
            await edit(other, identifier, title="x"),
            await take_back(other, identifier),
        ]
        for identifier in (posted["id"], missing)
    ]
    assert [[answer.status_code for answer in each] for each in answers] == [[404] * 3] * 2
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]
    assert (await other.get("/v1/notifications")).json()["items"] == []
    assert await titles(await server.user()) == ["Hello"]


# --- taking back --------------------------------------------------------------------------------------------


async def test_a_notification_that_is_taken_back_leaves_every_inbox_and_every_count(
    server: LocalServer,
) -> None:
    subs = ["unseen", "seen", "read", "archived", "deleted"]
    posted = await server.service.notify(subs, "wrong")
    await server.service.notify(subs, "right")
    users = {sub: await server.user(sub) for sub in subs}
    await users["seen"].post("/v1/inbox/seen", json={"up_to": 1})
    await users["read"].patch(f"/v1/inbox/{posted['id']}", json={"read": True})
    await users["archived"].patch(f"/v1/inbox/{posted['id']}", json={"archived": True})
    await users["deleted"].delete(f"/v1/inbox/{posted['id']}")
    async with users["unseen"].socket(since=2) as socket:
        await socket.until("live")
        answer = await take_back(server.service, posted["id"])
        assert answer.json() == {"state": "unsent", "recipients": 5, "seen": 2, "read": 1}
        message = await socket.next("changed")
    (item,) = message["items"]
    kept = {name for name, value in item.items() if value is not None}
    assert kept == {"id", "created_seq", "seq", "deleted_at", "deleted_reason"}
    assert item["deleted_reason"] == "unsent"
    assert (message["unread"], message["unseen"]) == (1, 1)
    expected = {"unseen": (3, 1, 1), "seen": (3, 1, 1), "read": (4, 1, 1), "archived": (4, 1, 1)}
    for sub, wanted in (expected | {"deleted": (3, 1, 1)}).items():
        assert await head(users[sub]) == wanted, sub
        assert await titles(users[sub]) == ["right"]
    assert (await take_back(server.service, posted["id"])).json()["state"] == "unsent"


async def test_a_device_that_was_away_never_gets_the_text_that_was_taken_back(server: LocalServer) -> None:
    ada = await server.user()
    async with ada.socket(since=0) as socket:
        await socket.until("live")
        posted = await server.service.notify("ada", "secret words")
        await socket.next("notification")
        await take_back(server.service, posted["id"])
        await socket.next("changed")
        async with ada.socket(since=0) as other:
            messages = await other.until("live")
    assert "secret words" not in json.dumps(messages)
    assert [message["type"] for message in messages] == ["hello", "changed", "live"]


async def test_a_post_to_a_thousand_is_taken_back_in_steps(server: LocalServer) -> None:
    subs = [f"u{number}" for number in range(1000)]
    posted = await server.service.notify(subs, "wrong")
    answer = await take_back(server.service, posted["id"])
    assert answer.json()["recipients"] == 1000

    def left(connection: Connection) -> tuple[int, int, int]:
        count = "SELECT count(*) FROM items WHERE deleted_at IS NULL"
        return (
            connection.scalar(text(count)),
            connection.scalar(text("SELECT count(*) FROM due_work")),
            connection.scalar(text("SELECT sum(unread) + sum(unseen) FROM users")),
        )

    assert await server.state.database.read(left) == (0, 0, 0)


async def test_a_sender_sees_no_content_from_the_first_step_on_and_a_recipient_has_it_until_the_last(
    server: LocalServer,
) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", "secret", body="words", data={"x": 1}, icon="/i", url="/u")
    # The schedule does not take over.
    server.state.writer.clock = lambda: time.time() + 1000
    begun = await server.state.writer.begin(Withdrawal(1, None, posted["id"]))
    now_known = await sent(server.service, posted["id"])
    assert now_known["state"] == "unsent"
    assert [now_known[name] for name in ("title", "body", "url", "data", "icon", "actions")] == [None] * 6
    # Its turn is yet to come: the counts and the log say so, too.
    assert (await titles(ada), await head(ada)) == (["secret"], (1, 1, 1))
    await server.state.writer.advance(Advance(begun.due))
    assert (await titles(ada), await head(ada)) == ([], (2, 0, 0))


@pytest.mark.parametrize("how", ["unsent", "expired", "cancelled"])
async def test_the_content_of_a_notification_that_ended_is_nowhere_in_the_database(
    server: LocalServer, how: str, database_url: str
) -> None:
    secret = "correct-horse-battery"
    fields: Json = {
        "body": secret,
        "url": f"/{secret}",
        "data": {"x": secret},
        "icon": f"/i/{secret}",
        "actions": [{"id": "a", "label": secret}],
    }
    if how == "expired":
        fields["ttl"] = 1
    elif how == "cancelled":
        fields["deliver_at"] = moment(100)
    posted = await server.service.notify("ada", secret, **fields)
    if how != "expired":
        await take_back(server.service, posted["id"])
    await state_is(server.service, posted["id"], how)

    def everything(connection: Connection) -> str:
        if connection.dialect.name == "sqlite":
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        tables = [connection.execute(table.select()).all() for table in metadata.sorted_tables]
        return repr(tables)

    async def erased() -> bool:
        return secret not in await server.state.database.read(everything)

    await until(erased, "the content is erased")
    if database_url.startswith("sqlite"):
        assert secret.encode() not in _bytes_of(database_url)


def _bytes_of(database_url: str) -> bytes:
    return Path(database_url.removeprefix("sqlite:///")).read_bytes()


# --- expiry and replacement ---------------------------------------------------------------------------------


async def test_an_item_expires_within_a_second_and_leaves_the_counts(server: LocalServer) -> None:
    ada = await server.user()
    async with ada.socket(since=0) as socket:
        await socket.until("live")
        posted = await server.service.notify("ada", "offer", ttl=1)
        item = (await socket.next("notification"))["notification"]
        assert 0 <= read_moment(item["expires_at"]) - read_moment(item["created_at"]) <= 1001
        message = await socket.next("changed")
    assert message["items"][0]["deleted_reason"] == "expired"
    assert (message["unread"], message["unseen"]) == (0, 0)
    deleted = read_moment(message["items"][0]["deleted_at"])
    assert deleted >= read_moment(item["expires_at"])
    assert (await sent(server.service, posted["id"]))["state"] == "expired"


async def test_a_time_to_live_begins_with_the_delivery(server: LocalServer) -> None:
    posted = await server.service.notify("ada", "offer", ttl=50, deliver_at=moment(100))
    assert (await sent(server.service, posted["id"]))["expires_at"] is None
    await edit(server.service, posted["id"], deliver_at=moment(-1))
    await state_is(server.service, posted["id"], "delivered")
    (item,) = (await (await server.user()).inbox())["items"]
    lived = read_moment(item["expires_at"]) - read_moment(item["created_at"])
    assert lived == 50_000


async def test_a_notification_that_expires_before_its_delivery_is_never_delivered(
    server: LocalServer,
) -> None:
    posted = await server.service.notify(["ada", "bob"], deliver_at=moment(100), expires_at=moment(200))
    await move(server, posted["id"], deliver_at=now() - 2000, expires_at=now() - 1000)
    await state_is(server.service, posted["id"], "expired")
    assert await head(await server.user()) == (0, 0, 0)
    assert counts(await sent(server.service, posted["id"])) == (2, 0, 0, 0, 0, 0)
    answer = await take_back(server.service, posted["id"], **{"If-Match": '"scheduled"'})
    assert answer.json() == {"state": "cancelled", "recipients": 2, "seen": 0, "read": 0}
    assert (await sent(server.service, posted["id"]))["state"] == "expired"


async def test_one_that_has_expired_is_answered_as_one_that_was_taken_back_and_stays_expired(
    server: LocalServer,
) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", expires_at=moment(100))
    await ada.patch(f"/v1/inbox/{posted['id']}", json={"read": True})
    await move(server, posted["id"], expires_at=now() - 1000)
    await state_is(server.service, posted["id"], "expired")
    for _ in range(2):
        answer = await take_back(server.service, posted["id"])
        assert answer.json() == {"state": "unsent", "recipients": 1, "seen": 1, "read": 1}
    assert (await take_back(server.service, posted["id"], **{"If-Match": '"scheduled"'})).status_code == 412
    now_known = await sent(server.service, posted["id"])
    assert (now_known["state"], counts(now_known)) == ("expired", (1, 1, 0, 0, 1, 1))
    (item,) = (await ada.get("/v1/inbox/changes")).json()["items"]
    assert item["deleted_reason"] == "expired"


async def test_one_that_is_cancelled_has_reached_nobody(server: LocalServer) -> None:
    posted = await server.service.notify(["ada", "bob"], deliver_at=moment(100))
    await take_back(server.service, posted["id"])
    assert counts(await sent(server.service, posted["id"])) == (2, 0, 0, 0, 0, 0)


async def test_the_counts_of_a_withdrawal_do_not_change_any_more(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify(["ada", "bob"])
    first = await take_back(server.service, posted["id"])
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        await ada.post("/v1/inbox/seen", json={"up_to": 2})
        await socket.send(type="ack", seq=2)
        await socket.ask(type="ping")
    again = await take_back(server.service, posted["id"])
    assert first.json() == again.json() == {"state": "unsent", "recipients": 2, "seen": 0, "read": 0}
    assert counts(await sent(server.service, posted["id"])) == (2, 2, 0, 0, 0, 0)


def counts(notification: Json) -> tuple[int, ...]:
    names = ("recipients", "reached", "muted", "delivered", "seen", "read")
    return tuple(notification[name] for name in names)


async def test_a_longer_life_is_given_by_an_edit(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", expires_at=moment(1))
    assert (await edit(server.service, posted["id"], expires_at=None)).json()["expires_at"] is None
    other = await server.service.notify("ada", ttl=1)
    await state_is(server.service, other["id"], "expired")
    assert await titles(ada) == ["Hello"]


async def test_a_notification_replaces_the_earlier_one_of_its_key(server: LocalServer) -> None:
    ada = await server.user()
    async with ada.socket(since=0) as socket:
        await socket.until("live")
        for number in "123":
            await server.service.notify("ada", number, collapse_key="build:7")
        await server.service.notify("ada", "other", collapse_key="build:8")
        messages = [await socket.receive() for _ in range(6)]
    assert [(message["type"], message["seq"]) for message in messages] == [
        ("notification", 1),
        ("changed", 2),
        ("notification", 3),
        ("changed", 4),
        ("notification", 5),
        ("notification", 6),
    ]
    assert [message["unread"] for message in messages] == [1, 0, 1, 0, 1, 2]
    assert messages[1]["items"][0]["deleted_reason"] == "replaced"
    assert await titles(ada) == ["other", "3"]


async def test_a_batch_may_replace_within_itself_and_what_is_archived_stays(server: LocalServer) -> None:
    ada = await server.user()
    posted = await server.service.notify("ada", "kept", collapse_key="k")
    await ada.patch(f"/v1/inbox/{posted['id']}", json={"archived": True})
    items = [{"to": ["ada", "bob"], "title": str(number), "collapse_key": "k"} for number in range(3)]
    assert (await server.service.post("/v1/notifications/batch", json=items)).status_code == 201
    assert await titles(ada) == ["2"]
    assert await titles(ada, archived="true") == ["kept"]
    assert await titles(await server.user("bob")) == ["2"]
    assert await head(ada) == (7, 1, 1)


@pytest.mark.parametrize("gone", ["archived", "deleted", "there"])
async def test_what_comes_back_from_the_archive_is_replaced_by_the_next_of_its_key(
    server: LocalServer, gone: str
) -> None:
    ada = await server.user()
    first = await server.service.notify("ada", "1", collapse_key="k")
    await ada.patch(f"/v1/inbox/{first['id']}", json={"archived": True})
    second = await server.service.notify("ada", "2", collapse_key="k")
    await ada.patch(f"/v1/inbox/{first['id']}", json={"archived": False})
    if gone == "archived":
        await ada.patch(f"/v1/inbox/{second['id']}", json={"archived": True})
    elif gone == "deleted":
        await ada.delete(f"/v1/inbox/{second['id']}")
    before = (await ada.inbox())["seq"]
    await server.service.notify("ada", "3", collapse_key="k")
    assert await titles(ada) == ["3"]
    assert await titles(ada, archived="true") == ["2"] * (gone == "archived")
    assert await head(ada) == (before + 2, 1, 1), "both that were there take one number"


async def test_a_post_replaces_few_of_very_many_that_came_back_from_the_archive(server: LocalServer) -> None:
    ada = await server.user()
    ids = []
    for number in range(MAX_ITEMS + 3):
        ids.append((await server.service.notify("ada", str(number), collapse_key="k"))["id"])
        await ada.patch(f"/v1/inbox/{ids[-1]}", json={"archived": True})
    for one in ids:
        await ada.patch(f"/v1/inbox/{one}", json={"archived": False})
    assert len(await titles(ada)) == len(ids)
    await server.service.notify("ada", "new", collapse_key="k")
    left = await titles(ada)
    assert left[0] == "new"
    assert len(ids) - MAX_ITEMS <= len(left) - 1 < len(ids)
    assert str(len(ids) - 1) not in left, "the newest one of the key is replaced in any case"
    await server.service.notify("ada", "newer", collapse_key="k")
    assert await titles(ada) == ["newer", *left[1:]]


async def test_what_comes_back_by_itself_is_replaced_by_the_next_of_its_key(server: LocalServer) -> None:
    ada = await server.user()
    first = await server.service.notify("ada", "1", collapse_key="k")
    await ada.patch(f"/v1/inbox/{first['id']}", json={"archived": True})
    await server.service.notify("ada", "2", collapse_key="k")
    await edit(server.service, first["id"], title="1, again", renotify=True)
    assert await titles(ada) == ["1, again", "2"]
    await server.service.notify("ada", "3", collapse_key="k")
    assert await titles(ada) == ["3"]


async def test_the_keys_of_two_services_have_nothing_in_common(server: LocalServer) -> None:
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    path = f"/v1/services/{made.json()['client_id']}/keys"
    other = Service(server.http, (await server.service.post(path)).json()["key"])
    await server.service.notify("ada", "mine", collapse_key="k")
    await other.notify("ada", "theirs", collapse_key="k")
    assert await titles(await server.user()) == ["theirs", "mine"]


# --- the list -----------------------------------------------------------------------------------------------


async def test_a_service_lists_its_notifications_newest_first(server: LocalServer) -> None:
    made = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    path = f"/v1/services/{made.json()['client_id']}/keys"
    other = Service(server.http, (await server.service.post(path)).json()["key"])
    for number in range(5):
        await other.notify("ada", str(number), category="even" if number % 2 == 0 else "odd")
    await server.service.notify("ada", "of another service")
    later = await other.notify("ada", "later", deliver_at=moment(100))
    pages, cursor = [], 0
    while True:
        page = (await other.get("/v1/notifications", params={"limit": 4, "cursor": cursor})).json()
        pages.append([item["title"] for item in page["items"]])
        if page["next"] is None:
            break
        cursor = page["next"]
    assert pages == [["later", "4", "3", "2"], ["1", "0"]]
    listed: Callable[..., Any] = other.get
    odd = await listed("/v1/notifications", params={"category": "odd"})
    assert [item["title"] for item in odd.json()["items"]] == ["3", "1"]
    scheduled = await listed("/v1/notifications", params={"state": "scheduled"})
    assert [item["id"] for item in scheduled.json()["items"]] == [later["id"]]
    assert (await listed("/v1/notifications", params={"state": "gone"})).status_code == 422
    everyones = (await server.service.get("/v1/notifications")).json()["items"]
    assert [item["title"] for item in everyones[:2]] == ["later", "of another service"]


async def test_a_repeated_request_gets_the_first_answer_even_after_its_expiry(server: LocalServer) -> None:
    key = {"Idempotency-Key": "k"}
    members = {"to": "ada", "title": "x", "expires_at": moment(1)}
    first = await server.service.post("/v1/notifications", json=members, headers=key)
    await asyncio.sleep(1.1)
    again = await server.service.post("/v1/notifications", json=members, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_change_is_charged_as_a_post_to_all_recipients(start_server: StartServer) -> None:
    server = await start_server(items_per_second=500)
    posted = await server.service.notify([f"u{number}" for number in range(1000)])
    statuses = [(await edit(server.service, posted["id"], title="x")).status_code for _ in range(6)]
    # The burst is 2,000 recipients: the post, an edit, and one that makes a debt.
    assert statuses[0] == 200
    assert statuses[3:] == [429] * 3
    assert (await take_back(server.service, posted["id"])).status_code == 429
    assert (await sent(server.service, posted["id"]))["state"] == "delivered"


async def test_a_scheduled_notification_cannot_be_edited_to_expire_before_its_delivery(
    server: LocalServer,
) -> None:
    times = {"deliver_at": moment(1000), "expires_at": moment(2000)}
    posted = await server.service.notify("ada", **times)
    for members, field, rule in (
        ({"expires_at": moment(900)}, "expires_at", "it must be later than deliver_at"),
        ({"deliver_at": moment(3000)}, "deliver_at", "it must be earlier than expires_at"),
        ({"deliver_at": moment(5000), "expires_at": moment(4000)}, "expires_at", "later than deliver_at"),
    ):
        refused = await edit(server.service, posted["id"], **members)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
        assert rule in refused.json()["errors"][0]["message"]
    both = await edit(server.service, posted["id"], deliver_at=moment(3000), expires_at=moment(4000))
    assert both.status_code == 200
    assert (await edit(server.service, posted["id"], expires_at=None)).status_code == 200
    ending = await server.service.notify("ada", deliver_at=moment(1000), ttl=5)
    assert (await edit(server.service, ending["id"], deliver_at=moment(9000))).status_code == 200


@pytest.mark.parametrize("renotify", [True, False])
async def test_an_edit_that_changes_nothing_of_a_scheduled_notification_is_fine(
    server: LocalServer, renotify: bool
) -> None:
    posted = await server.service.notify("ada", "later", deliver_at=moment(100))
    answer = await edit(server.service, posted["id"], renotify=renotify)
    assert (answer.status_code, answer.json()["state"]) == (200, "scheduled")


async def test_a_list_of_long_notifications_ends_early(server: LocalServer) -> None:
    long = {"body": "b" * 4000, "data": {"text": "d" * 8_000}}
    for number in range(20):
        await server.service.notify("ada", str(number), **long)
    for narrowed in ({}, {"category": "default"}):
        pages: list[list[str]] = []
        cursor: Any = 0
        while cursor is not None:
            query = {"limit": 100, "cursor": cursor, **narrowed}
            answer = await server.service.get("/v1/notifications", params=query)
            assert len(answer.content) < 110_000
            pages.append([item["title"] for item in answer.json()["items"]])
            cursor = answer.json()["next"]
        listed = [str(number) for number in reversed(range(20))]
        assert pages == [listed[:8], listed[8:16], listed[16:]]


async def test_the_members_of_a_change_have_no_defaults(server: LocalServer) -> None:
    described = (await server.http.get("/openapi.json")).json()
    changed = 0
    for operations in described["paths"].values():
        if body := operations.get("patch", {}).get("requestBody"):
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            members = described["components"]["schemas"][name]["properties"]
            assert [member for member, rule in members.items() if "default" in rule] == [], name
            changed += 1
    assert changed == 3


async def test_the_delivered_ones_are_listed_in_pages_that_search_a_part(server: LocalServer) -> None:
    for number in range(3):
        await server.service.notify("ada", str(number))
        await server.service.notify("ada", "later", deliver_at=moment(100))
    titles_of: list[str] = []
    cursor: Any = 0
    while cursor is not None:
        query = {"state": "delivered", "limit": 2, "cursor": cursor}
        page = (await server.service.get("/v1/notifications", params=query)).json()
        titles_of += [item["title"] for item in page["items"]]
        cursor = page["next"]
    assert titles_of == ["2", "1", "0"]
