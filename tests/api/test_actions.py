"""Actions and answers over REST and on the socket, by section 8 of the contract."""

import asyncio
from typing import Any

import pytest

from tests.support.actions import set_actions
from tests.support.clients import Service, User
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, serving_all


async def posted(server: LocalServer, *to: str) -> str:
    """Post a notification with the actions of `set_actions`, and return its id."""
    identifier: str = (await server.service.notify(list(to or ("ada",))))["id"]
    await server.state.database.write(set_actions, identifier)
    return identifier


def path(identifier: str, action: str) -> str:
    return f"/v1/inbox/{identifier}/actions/{action}"


@pytest.mark.parametrize("body", [{}, {"json": {}}, {"json": {"text": None}}], ids=str)
async def test_an_action_without_a_reply_needs_no_body(gateway: LocalServer, body: dict[str, Any]) -> None:
    one = await posted(gateway)
    ada = await gateway.user()
    answer = await ada.post(path(one.upper(), "yes"), **body)
    assert answer.status_code == 200, answer.text
    item = answer.json()
    assert item == (await ada.get(f"/v1/inbox/{one}")).json()
    assert item["answer"] == {"action": "yes", "text": None, "at": item["read_at"]}
    page = await ada.inbox()
    assert (page["seq"], page["unread"], page["unseen"]) == (2, 0, 0)


async def test_an_answer_with_a_text_is_stored_once(server: LocalServer) -> None:
    one = await posted(server)
    ada = await server.user()
    text = "Grüße \U0001f600 " + "x" * 990
    item = (await ada.post(path(one, "say"), json={"text": text})).json()
    assert (item["answer"]["action"], item["answer"]["text"]) == ("say", text)
    for action, body in (("say", {"text": text}), ("yes", {}), ("no", {})):
        again = await ada.post(path(one, action), json=body)
        assert (again.status_code, again.json()["code"]) == (409, "already_answered")
    assert (await ada.get(f"/v1/inbox/{one}")).json() == item


async def test_an_answer_that_breaks_a_rule_is_refused(
    gateway: LocalServer, subtests: pytest.Subtests
) -> None:
    one = await posted(gateway)
    ada = await gateway.user()
    cases: list[tuple[str, Any, int, str]] = [
        ("no", {}, 404, "unknown_action"),
        ("%2F", {}, 404, "unknown_action"),
        ("x" * 200, {}, 404, "unknown_action"),
        ("say", {}, 422, "validation_error"),
        ("say", {"text": ""}, 422, "validation_error"),
        ("say", {"text": "x" * 1001}, 422, "validation_error"),
        ("say", {"text": "a\x00b"}, 422, "validation_error"),
        ("say", {"text": 1}, 422, "validation_error"),
        ("yes", {"text": "Why not"}, 422, "validation_error"),
        ("yes", {"txt": "Why not"}, 422, "validation_error"),
        ("yes", [], 422, "validation_error"),
    ]
    for action, body, status, code in cases:
        with subtests.test(f"{action[:10]} {str(body)[:20]}"):
            answer = await ada.post(path(one, action), json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
            if status == 422 and isinstance(body, dict):
                assert [error["field"] for error in answer.json()["errors"]] == [*body, "text"][:1]
    assert (await ada.inbox())["seq"] == 1


async def test_missing_deleted_and_foreign_items_are_not_found(server: LocalServer) -> None:
    one, other = await posted(server), await posted(server)
    ada, bob = await server.user(), await server.user("bob")
    await ada.delete(f"/v1/inbox/{one}")
    for user, identifier in ((ada, one), (bob, other), (ada, "nonsense")):
        answer = await user.post(path(identifier, "yes"))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_service_lists_the_answers_to_its_notification(server: LocalServer) -> None:
    one = await posted(server, "ada", "bob", "cy", "dan")
    users = {sub: await server.user(sub) for sub in ("ada", "bob", "cy", "dan")}
    answers = f"/v1/notifications/{one}/answers"
    assert (await server.service.get(answers)).json() == {"items": [], "next": None}
    expected = []
    for sub in ("ada", "bob", "dan"):
        action, body = ("yes", {}) if sub == "bob" else ("say", {"text": f"It is {sub}"})
        item = (await users[sub].post(path(one, action), json=body)).json()
        expected.append({"sub": sub, **item["answer"]})
    await users["bob"].delete(f"/v1/inbox/{one}")
    assert (await server.service.get(answers)).json() == {"items": expected, "next": None}
    first = (await server.service.get(answers, params={"limit": 2})).json()
    assert first["items"] == expected[:2]
    rest = (await server.service.get(answers, params={"limit": 2, "cursor": first["next"]})).json()
    assert rest == {"items": expected[2:], "next": None}
    for query in ({"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"curser": 1}):
        assert (await server.service.get(answers, params=query)).status_code == 422


async def test_only_its_poster_and_admins_see_the_answers(server: LocalServer) -> None:
    one = await posted(server)
    created = await server.service.post("/v1/services", json={"name": "other", "scopes": ["notify"]})
    key = await server.service.post(f"/v1/services/{created.json()['client_id']}/keys")
    other = Service(server.http, key.json()["key"])
    for identifier in (one, "nonsense", "01936f00-0000-7000-8000-000000000001"):
        answer = await other.get(f"/v1/notifications/{identifier}/answers")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    theirs = (await other.notify("ada"))["id"]
    assert (await other.get(f"/v1/notifications/{theirs}/answers")).status_code == 200
    assert (await server.service.get(f"/v1/notifications/{theirs}/answers")).status_code == 200
    ada = await server.user()
    assert (await ada.get(f"/v1/notifications/{one}/answers")).status_code == 403


# --- the socket ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_encoding")
async def test_the_command_answers_and_every_socket_is_told(gateway: LocalServer) -> None:
    one = await posted(gateway)
    ada = await gateway.user()
    async with ada.socket() as socket, ada.socket() as other:
        await socket.until("live")
        await other.until("live")
        assert (await socket.ask(type="act", id=one.upper(), action="say", text="Ja"))["type"] == "ok"
        changed = await other.next("changed")
        (item,) = changed["items"]
        assert (changed["seq"], changed["unread"], changed["unseen"]) == (2, 0, 0)
        assert item["answer"] == {"action": "say", "text": "Ja", "at": item["read_at"]}
        refused = await other.ask(type="act", id=one, action="say", text="Ja")
        assert (refused["type"], refused["code"]) == ("error", "already_answered")


@pytest.mark.usefixtures("each_encoding")
async def test_a_refused_answer_on_the_socket_has_the_code_of_the_api(gateway: LocalServer) -> None:
    one = await posted(gateway)
    ada = await gateway.user()
    missing = "01936f00-0000-7000-8000-000000000001"
    async with ada.socket() as socket:
        await socket.until("live")
        for fields, code in (
            ({"id": one, "action": "no"}, "unknown_action"),
            ({"id": missing, "action": "yes"}, "not_found"),
            ({"id": one, "action": "say"}, "validation_error"),
            ({"id": one, "action": "yes", "text": "x"}, "validation_error"),
            ({"id": one}, "invalid_field"),
            ({"id": one, "action": ""}, "invalid_field"),
            ({"id": one, "action": 1}, "invalid_field"),
            ({"id": "nonsense", "action": "yes"}, "invalid_field"),
            ({"action": "yes"}, "invalid_field"),
            ({"id": one, "action": "say", "text": ""}, "invalid_field"),
            ({"id": one, "action": "say", "text": "x" * 1001}, "invalid_field"),
            ({"id": one, "action": "say", "text": "\x00"}, "invalid_field"),
            ({"id": one, "action": "say", "text": ["x"]}, "invalid_field"),
        ):
            error = await socket.ask(type="act", **fields)
            assert (error["type"], error["code"]) == ("error", code), fields
    assert (await ada.inbox())["seq"] == 1


async def test_half_of_a_surrogate_pair_is_no_text(gateway: LocalServer) -> None:
    one = await posted(gateway)
    ada = await gateway.user()
    body = b'{"text":"\\ud800"}'
    answer = await ada.post(path(one, "say"), content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    async with ada.socket(encoding="json") as socket:
        await socket.until("live")
        assert (await socket.ask(type="act", id=one, action="say", text="\ud800"))["code"] == "invalid_field"


async def act(user: User, identifier: str, text: str) -> int:
    return (await user.post(path(identifier, "say"), json={"text": text})).status_code


async def test_of_answers_at_once_at_two_gateways_exactly_one_wins(postgres_url: str) -> None:
    settings = settings_for(postgres_url)
    async with serving_all(settings, settings) as (here, there):
        users = [await here.user(), await there.user()]
        for _ in range(10):
            one = await posted(here)
            statuses = await asyncio.gather(*(act(user, one, name) for user in users for name in "ab"))
            assert sorted(statuses) == [200, 409, 409, 409]
