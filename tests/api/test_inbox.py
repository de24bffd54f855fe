"""The inbox over REST, by section 4 of the contract."""

import asyncio
import re
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.support.checker import Json
from tests.support.clients import User
from tests.support.servers import LocalServer

FIELDS = {
    "id",
    "created_seq",
    "seq",
    "title",
    "body",
    "category",
    "priority",
    "url",
    "data",
    "created_at",
    "icon",
    "actions",
    "expires_at",
    "edited_at",
    "read_at",
    "archived_at",
    "deleted_at",
    "snoozed_until",
    "answer",
    "deleted_reason",
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def titles(page: Json) -> list[str]:
    return [item["title"] for item in page["items"]]


async def head(user: User) -> tuple[int, int, int]:
    page = await user.inbox(limit=1)
    return page["seq"], page["unread"], page["unseen"]


async def test_an_empty_inbox_is_a_page_without_items(server: LocalServer) -> None:
    page = await (await server.user()).inbox()
    assert set(page) == {"items", "next", "seq", "epoch", "unread", "unseen"}
    assert (page["items"], page["next"], page["seq"], page["unread"], page["unseen"]) == ([], None, 0, 0, 0)
    assert page["epoch"]


async def test_the_inbox_lists_the_newest_item_first_with_all_fields(server: LocalServer) -> None:
    await server.service.notify_many("ada", 3)
    page = await (await server.user()).inbox()
    assert titles(page) == ["3", "2", "1"]
    assert (page["seq"], page["unread"], page["unseen"]) == (3, 3, 3)
    for number, item in zip((3, 2, 1), page["items"], strict=True):
        assert set(item) == FIELDS
        assert item["created_seq"] == item["seq"] == number


async def test_paging_returns_the_whole_inbox(server: LocalServer) -> None:
    await server.service.notify_many("ada", 25)
    ada = await server.user()
    seen: list[str] = []
    params: Json = {"limit": 10}
    for size in (10, 10, 5):
        page = await ada.inbox(**params)
        assert len(page["items"]) == size
        seen += titles(page)
        params["cursor"] = page["next"]
    assert page["next"] is None
    assert seen == [str(number) for number in range(25, 0, -1)]


async def test_a_full_last_page_has_no_next_cursor(server: LocalServer) -> None:
    await server.service.notify_many("ada", 10)
    assert (await (await server.user()).inbox(limit=10))["next"] is None


async def test_later_arrivals_do_not_shift_the_pages(server: LocalServer) -> None:
    await server.service.notify_many("ada", 4)
    ada = await server.user()
    first = await ada.inbox(limit=2)
    await server.service.notify("ada", "new")
    second = await ada.inbox(limit=2, cursor=first["next"])
    assert titles(first) + titles(second) == ["4", "3", "2", "1"]


async def test_the_link_header_leads_to_the_next_page_with_the_same_filters(server: LocalServer) -> None:
    await server.service.notify_many("ada", 3)
    ada = await server.user()
    answer = await ada.get("/v1/inbox", params={"limit": 2, "unread": "true", "category": "default"})
    match = re.fullmatch(r'<(.+)>; ?rel="next"', answer.headers["link"])
    assert match is not None
    following = await ada.get(match[1])
    assert titles(following.json()) == ["1"]
    assert "link" not in following.headers
    assert "unread=true" in match[1]


BAD_QUERIES: list[Json] = [
    {"limit": 0},
    {"limit": 201},
    {"limit": -1},
    {"limit": "many"},
    {"cursor": "nonsense"},
    {"cursor": "0"},
    {"cursor": "\x00"},
    {"cursor": "x" * 5000},
    {"unread": "perhaps"},
    {"archived": "perhaps"},
    {"snoozed": "perhaps"},
    {"category": ""},
    {"category": "\x00"},
    {"category": "x" * 65},
]


async def test_an_invalid_query_gets_a_422_that_names_the_parameter(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    ada = await server.user()
    for params in BAD_QUERIES:
        with subtests.test(str(params)[:80]):
            answer = await ada.get("/v1/inbox", params=params)
            assert answer.status_code == 422, answer.text
            assert [error["field"] for error in answer.json()["errors"]] == list(params)


async def test_the_default_page_size_is_50_and_the_maximum_is_200(server: LocalServer) -> None:
    await server.service.notify_many("ada", 201)
    ada = await server.user()
    assert len((await ada.inbox())["items"]) == 50
    assert len((await ada.inbox(limit=200))["items"]) == 200


async def test_filters_return_only_matching_items(server: LocalServer) -> None:
    for title, category in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "x")):
        await server.service.notify("ada", title, category=category)
    ada = await server.user()
    by_title = {item["title"]: item["id"] for item in (await ada.inbox())["items"]}
    await ada.patch(f"/v1/inbox/{by_title['a']}", json={"read": True})
    await ada.patch(f"/v1/inbox/{by_title['b']}", json={"archived": True})
    await ada.patch(f"/v1/inbox/{by_title['c']}", json={"archived": True, "read": True})
    await ada.delete(f"/v1/inbox/{by_title['d']}")

    async def show(**params: Any) -> list[str]:
        return titles(await ada.inbox(**params))

    assert await show() == ["e", "a"]
    assert await show(archived="false") == ["e", "a"]
    assert await show(unread="true") == ["e"]
    assert await show(unread="false") == ["a"]
    assert await show(archived="true") == ["c", "b"]
    assert await show(archived="true", unread="true") == ["b"]
    assert await show(archived="true", unread="false") == ["c"]
    assert await show(category="x") == ["e", "a"]
    assert await show(category="x", archived="true") == ["b"]
    assert await show(category="nothing") == []


async def test_paging_returns_a_whole_category(server: LocalServer) -> None:
    posts = [{"to": "ada", "title": str(n), "category": "odd" if n % 2 else "even"} for n in range(20)]
    await server.service.post("/v1/notifications/batch", json=posts)
    ada = await server.user()
    seen, params = [], {"category": "odd", "limit": 3}
    while True:
        page = await ada.inbox(**params)
        seen += titles(page)
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert seen == [str(n) for n in range(19, 0, -2)]


# --- one item -----------------------------------------------------------------------------------------------


async def test_a_single_item_equals_the_item_in_the_page(server: LocalServer) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    answer = await ada.get(f"/v1/inbox/{identifier}")
    assert answer.json() == (await ada.inbox())["items"][0]


async def test_marking_an_item_read_or_unread_takes_a_seq_and_updates_the_counts(server: LocalServer) -> None:
    identifier, other = await server.service.notify_many("ada", 2)
    ada = await server.user()
    answer = await ada.patch(f"/v1/inbox/{identifier}", json={"read": True})
    assert answer.status_code == 200
    item = answer.json()
    assert TIME.fullmatch(item["read_at"])
    assert (item["created_seq"], item["seq"]) == (1, 3)
    assert await head(ada) == (3, 1, 1)
    item = (await ada.patch(f"/v1/inbox/{identifier}", json={"read": False})).json()
    assert (item["read_at"], item["seq"]) == (None, 4)
    assert await head(ada) == (4, 2, 2)
    assert (await ada.get(f"/v1/inbox/{other}")).json()["seq"] == 2


async def test_a_change_without_effect_takes_no_seq(server: LocalServer) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    first = (await ada.patch(f"/v1/inbox/{identifier}", json={"read": True})).json()
    again = (await ada.patch(f"/v1/inbox/{identifier}", json={"read": True})).json()
    assert again == first
    assert await head(ada) == (2, 0, 0)


async def test_archiving_removes_an_item_from_the_counts_and_unarchiving_restores_it(
    server: LocalServer,
) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    item = (await ada.patch(f"/v1/inbox/{identifier}", json={"archived": True})).json()
    assert TIME.fullmatch(item["archived_at"])
    assert await head(ada) == (2, 0, 0)
    item = (await ada.patch(f"/v1/inbox/{identifier}", json={"archived": False})).json()
    assert item["archived_at"] is None
    assert await head(ada) == (3, 1, 1)


async def test_marking_read_and_archiving_together_take_one_seq(server: LocalServer) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    item = (await ada.patch(f"/v1/inbox/{identifier}", json={"read": True, "archived": True})).json()
    assert item["read_at"]
    assert item["archived_at"]
    assert item["seq"] == 2


async def test_an_invalid_item_update_gets_a_422(server: LocalServer, subtests: pytest.Subtests) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    bodies: tuple[Any, ...] = (
        {},
        {"read": "yes"},
        {"read": None},
        {"archived": 1},
        {"title": "x"},
        {"read": True, "x": 1},
        [],
    )
    for body in bodies:
        with subtests.test(str(body)):
            answer = await ada.patch(f"/v1/inbox/{identifier}", json=body)
            assert answer.status_code == 422, answer.text
    assert await head(ada) == (1, 1, 1)


async def test_a_deleted_item_keeps_only_its_id_and_seqs(server: LocalServer) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()
    answer = await ada.delete(f"/v1/inbox/{identifier}")
    assert answer.status_code in {200, 204}
    assert await head(ada) == (2, 0, 0)
    assert (await ada.inbox())["items"] == []
    assert (await ada.get(f"/v1/inbox/{identifier}")).status_code == 404
    (item,) = (await ada.get("/v1/inbox/changes", params={"since": 0})).json()["items"]
    assert TIME.fullmatch(item.pop("deleted_at"))
    assert {name: value for name, value in item.items() if value is not None} == {
        "id": identifier,
        "created_seq": 1,
        "seq": 2,
        "deleted_reason": "user",
    }


async def test_an_item_of_another_user_gets_the_same_404_as_a_missing_item(server: LocalServer) -> None:
    (identifier,) = await server.service.notify_many("bob", 1)
    missing = identifier[:-4] + ("0000" if identifier[-4:] != "0000" else "1111")
    ada, bob = await server.user("ada"), await server.user("bob")
    calls: list[tuple[str, Json]] = [("GET", {}), ("PATCH", {"json": {"read": True}}), ("DELETE", {})]
    for method, options in calls:
        answers = [
            await ada.request(method, f"/v1/inbox/{one}", **options)
            for one in (identifier, missing, "nonsense", "%00")
        ]
        assert [answer.status_code for answer in answers] == [404] * 4
        assert len({answer.text for answer in answers}) == 1
    assert await head(bob) == (1, 1, 1)
    assert await head(ada) == (0, 0, 0)


# --- reading many -------------------------------------------------------------------------------------------


async def test_marking_several_items_read_takes_one_seq(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 4)
    ada = await server.user()
    foreign = await server.service.notify_many("bob", 1)
    answer = await ada.post("/v1/inbox/read", json={"ids": [ids[0], ids[2], ids[0], *foreign]})
    assert answer.status_code in {200, 204}, answer.text
    assert await head(ada) == (5, 2, 2)
    changed = [item for item in (await ada.inbox())["items"] if item["read_at"]]
    assert [(item["id"], item["seq"]) for item in changed] == [(ids[2], 5), (ids[0], 5)]
    assert await head(await server.user("bob")) == (1, 1, 1)


async def test_marking_read_up_to_a_seq_leaves_later_items_unread(server: LocalServer) -> None:
    await server.service.notify_many("ada", 5)
    ada = await server.user()
    await ada.post("/v1/inbox/read", json={"up_to": 3})
    assert await head(ada) == (6, 2, 2)
    assert titles(await ada.inbox(unread="true")) == ["5", "4"]
    await ada.post("/v1/inbox/read", json={"up_to": 3})
    assert await head(ada) == (6, 2, 2)
    await ada.post("/v1/inbox/read", json={"up_to": 1_000_000})
    assert await head(ada) == (7, 0, 0)
    await server.service.notify("ada")
    assert await head(ada) == (8, 1, 1)


async def test_one_request_marks_2500_items_read(server: LocalServer) -> None:
    for _ in range(3):
        await server.service.notify_many("ada", 1000)
    ada = await server.user()
    await ada.post("/v1/inbox/read", json={"up_to": 2500})
    seq, unread, _ = await head(ada)
    assert unread == 500
    assert seq > 3000


NO_READ_REQUESTS: list[Json] = [
    {},
    {"ids": []},
    {"ids": ["nonsense"]},
    {"ids": "x"},
    {"up_to": -1},
    {"up_to": "1"},
    {"up_to": 1.5},
    {"up_to": 2**63},
    {"up_to": 1, "ids": ["01936f00-0000-7000-8000-000000000001"]},
    {"up_to": None},
]


async def test_an_invalid_read_request_gets_a_422(server: LocalServer, subtests: pytest.Subtests) -> None:
    ada = await server.user()
    for body in NO_READ_REQUESTS:
        with subtests.test(str(body)):
            answer = await ada.post("/v1/inbox/read", json=body)
            assert answer.status_code == 422, answer.text


async def test_the_seen_mark_moves_forward_only(server: LocalServer) -> None:
    await server.service.notify_many("ada", 5)
    ada = await server.user()
    for up_to, unseen in ((3, 2), (1, 2), (5, 0), (0, 0)):
        answer = await ada.post("/v1/inbox/seen", json={"up_to": up_to})
        assert answer.status_code in {200, 204}
        assert await head(ada) == (5, 5, unseen)
    await server.service.notify("ada")
    assert await head(ada) == (6, 6, 1)


async def test_the_seen_mark_cannot_pass_the_head_of_the_log(server: LocalServer) -> None:
    ada = await server.user()
    await ada.post("/v1/inbox/seen", json={"up_to": 1000})
    await server.service.notify("ada")
    assert await head(ada) == (1, 1, 1)


async def test_concurrent_changes_keep_the_counts_exact(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 30)
    ada = await server.user()
    await asyncio.gather(
        *(ada.patch(f"/v1/inbox/{one}", json={"read": True}) for one in ids[:10] * 2),
        *(ada.patch(f"/v1/inbox/{one}", json={"archived": True}) for one in ids[5:15]),
        *(ada.delete(f"/v1/inbox/{one}") for one in ids[10:20]),
        ada.post("/v1/inbox/seen", json={"up_to": 25}),
        *(server.service.notify("ada") for _ in range(5)),
    )
    whole = await ada.whole_inbox()
    unread = [item for item in whole.items.values() if not item["read_at"] and not item["archived_at"]]
    assert whole.unread == len(unread) == 15
    assert whole.unseen == sum(1 for item in unread if item["created_seq"] > 25) == 10


# --- changes ------------------------------------------------------------------------------------------------


async def test_the_changes_after_a_seq_are_listed_oldest_first(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 4)
    ada = await server.user()
    await ada.patch(f"/v1/inbox/{ids[1]}", json={"read": True})

    async def changes(**params: Any) -> Json:
        body: Json = (await ada.get("/v1/inbox/changes", params=params)).json()
        return body

    whole = await changes(since=0)
    assert set(whole) == {"items", "seq", "epoch", "more"}
    assert [item["seq"] for item in whole["items"]] == [1, 3, 4, 5]
    assert (whole["seq"], whole["more"]) == (5, False)
    assert whole["epoch"] == (await ada.inbox())["epoch"]
    first = await changes(since=0, limit=2)
    assert ([item["seq"] for item in first["items"]], first["more"]) == ([1, 3], True)
    rest = await changes(since=3, limit=2)
    assert ([item["seq"] for item in rest["items"]], rest["more"]) == ([4, 5], False)
    assert (await changes(since=5))["items"] == []


async def test_a_page_of_changes_never_ends_inside_one_bulk_change(server: LocalServer) -> None:
    ids = await server.service.notify_many("ada", 10)
    ada = await server.user()
    await ada.post("/v1/inbox/read", json={"ids": ids[:8]})
    page = (await ada.get("/v1/inbox/changes", params={"since": 0, "limit": 3})).json()
    last = [item for item in page["items"] if item["seq"] == 11]
    assert len(last) in {0, 8}
    rest = (await ada.get("/v1/inbox/changes", params={"since": page["items"][-1]["seq"]})).json()
    assert len(page["items"]) + len(rest["items"]) == 10


async def test_an_invalid_changes_query_gets_a_422(server: LocalServer) -> None:
    ada = await server.user()
    for params in ({"since": -1}, {"since": "x"}, {"since": 2**63}, {"limit": 0}):
        answer = await ada.get("/v1/inbox/changes", params=params)
        assert answer.status_code == 422, answer.text


# --- caching ------------------------------------------------------------------------------------------------


async def test_an_unchanged_inbox_gets_a_304_and_a_changed_inbox_does_not(server: LocalServer) -> None:
    (identifier,) = await server.service.notify_many("ada", 1)
    ada = await server.user()

    async def tag() -> str:
        etag: str = (await ada.get("/v1/inbox")).headers["etag"]
        return etag

    changes = (
        lambda: server.service.notify("ada"),
        lambda: ada.patch(f"/v1/inbox/{identifier}", json={"read": True}),
        lambda: ada.post("/v1/inbox/seen", json={"up_to": 1}),
        lambda: ada.delete(f"/v1/inbox/{identifier}"),
    )
    for change in changes:
        known = await tag()
        same = await ada.get("/v1/inbox", headers={"If-None-Match": known})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == known
        await change()
        other = await ada.get("/v1/inbox", headers={"If-None-Match": known})
        assert other.status_code == 200
        assert other.headers["etag"] != known


async def test_an_inbox_response_is_not_for_shared_caches(server: LocalServer) -> None:
    answer = await (await server.user()).get("/v1/inbox")
    assert "private" in answer.headers["cache-control"]


# --- who may ------------------------------------------------------------------------------------------------


INBOX_CALLS = [
    ("GET", "/v1/inbox"),
    ("GET", "/v1/inbox/changes?since=0"),
    ("GET", "/v1/inbox/01936f00-0000-7000-8000-000000000001"),
    ("PATCH", "/v1/inbox/01936f00-0000-7000-8000-000000000001"),
    ("DELETE", "/v1/inbox/01936f00-0000-7000-8000-000000000001"),
    ("POST", "/v1/inbox/read"),
    ("POST", "/v1/inbox/seen"),
]


async def test_the_inbox_is_for_users_only(server: LocalServer) -> None:
    for method, path in INBOX_CALLS:
        nobody = await server.stranger.request(method, path)
        assert (nobody.status_code, nobody.json()["code"]) == (401, "missing_token")
        service = await server.service.request(method, path)
        assert (service.status_code, service.json()["code"]) == (403, "insufficient_scope")


async def test_each_user_has_an_epoch_of_their_own(server: LocalServer) -> None:
    ada, bob = await server.user("ada"), await server.user("bob")
    assert (await ada.inbox())["epoch"] != (await bob.inbox())["epoch"]


async def test_the_next_link_has_only_the_requested_parameters_and_the_cursor(server: LocalServer) -> None:
    ada = await server.user()
    await server.service.notify_many("ada", 3)
    query = "limit=1&unread=true&category=default"
    first = await ada.get(f"/v1/inbox?{query}")
    link = first.headers["link"].removeprefix("</v1/inbox?").removesuffix('>; rel="next"')
    expected = {"limit": "1", "unread": "true", "category": "default", "cursor": first.json()["next"]}
    assert dict(parse_qsl(link)) == expected
    second = await ada.get(f"/v1/inbox?{link}")
    assert [item["title"] for item in second.json()["items"]] == ["2"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/inbox/preferences", "GET, HEAD, PUT"),
        ("DELETE", "/v1/inbox/preferences", "GET, HEAD, PUT"),
        ("PATCH", "/v1/inbox/changes", "GET, HEAD"),
        ("GET", "/v1/inbox/read", "POST"),
        ("DELETE", "/v1/inbox/seen", "POST"),
    ],
)
async def test_no_item_has_the_name_of_another_route(
    server: LocalServer, method: str, path: str, allowed: str
) -> None:
    ada = await server.user()
    body = {"json": {"timezone": "UTC"}} if method == "PATCH" else {}
    answer = await ada.request(method, path, **body)
    assert (answer.status_code, answer.headers.get("Allow")) == (405, allowed)
    assert (await ada.patch("/v1/inbox/seen-not", json={"read": True})).status_code == 404
