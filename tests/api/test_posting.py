"""Posting, by section 3 of the contract: one, many, batches, idempotency, limits, and the sender's view."""

import asyncio
import gzip
import json
import re
from typing import Any
from unittest.mock import Mock

import pytest

from gateway.api import notification
from tests.support.checker import Json
from tests.support.clients import Service
from tests.support.servers import LocalServer, StartServer

JSON = {"Content-Type": "application/json"}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def post(service: Service, **fields: Any) -> Any:
    return await service.post("/v1/notifications", json=fields)


async def other_service(server: LocalServer, *scopes: str) -> Service:
    answer = await server.service.post("/v1/services", json={"name": "other", "scopes": list(scopes)})
    assert answer.status_code == 201, answer.text
    path = f"/v1/services/{answer.json()['client_id']}/keys"
    key: str = (await server.service.post(path)).json()["key"]
    return Service(server.http, key)


async def test_a_post_returns_the_id_the_time_and_the_number_of_recipients(
    server: LocalServer,
) -> None:
    answer = await post(server.service, to="ada", title="Hello")
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"id", "created_at", "recipients", "state"}
    assert UUID7.fullmatch(body["id"])
    assert TIME.fullmatch(body["created_at"])
    assert body["recipients"] == 1
    assert answer.headers["location"] == f"/v1/notifications/{body['id']}"


async def test_every_field_arrives_as_it_was_posted(server: LocalServer) -> None:
    fields: Json = {
        "title": "Zürich → 東京 🎉",
        "body": 'line\nline\ttab \u2028 <b>&amp;</b> "quoted" \\ \'',
        "category": "build.failed_2-x",
        "priority": "urgent",
        "url": "https://example.com/path?x=1#y",
        "data": {"nested": [1, 2.5, None, True, {"ключ": "значение"}], "empty": {}},
    }
    posted = await server.service.notify("ada", **fields)
    ada = await server.user()
    (item,) = (await ada.inbox())["items"]
    assert {name: item[name] for name in fields} == fields
    assert item["id"] == posted["id"]
    assert item["created_at"] == posted["created_at"]
    assert (item["read_at"], item["archived_at"], item["deleted_at"]) == (None, None, None)


async def test_omitted_fields_have_their_defaults(server: LocalServer) -> None:
    await server.service.notify("ada")
    (item,) = (await (await server.user()).inbox())["items"]
    defaults = {"body": None, "category": "default", "priority": "normal", "url": None, "data": None}
    assert {name: item[name] for name in defaults} == defaults


async def test_one_post_reaches_each_recipient_once(server: LocalServer) -> None:
    answer = await server.service.notify(["ada", "bob", "ada", "cyd"])
    assert answer["recipients"] == 3
    for sub in ("ada", "bob", "cyd"):
        items = (await (await server.user(sub)).inbox())["items"]
        assert [item["id"] for item in items] == [answer["id"]]


async def test_a_post_has_at_most_1000_recipients(server: LocalServer) -> None:
    subs = [f"user {index}" for index in range(1000)]
    assert (await server.service.notify(subs))["recipients"] == 1000
    answer = await post(server.service, to=[*subs, "one more"], title="x")
    assert answer.status_code == 422


LONGEST_DATA = {"x": "y" * (8 * 1024 - len('{"x":""}'))}

GOOD: list[Json] = [
    {"title": "x" * 200},
    {"title": "🎉" * 200},
    {"body": "x" * 4000},
    {"body": ""},
    {"body": None},
    {"category": "x" * 64},
    {"category": "a.b_c-1"},
    {"priority": "low"},
    {"priority": "normal"},
    {"priority": "high"},
    {"priority": "urgent"},
    {"url": "/"},
    {"url": "/path?x=1#y"},
    {"url": "http://example.com"},
    {"url": "https://example.com:8443/x"},
    {"url": None},
    {"data": {}},
    {"data": LONGEST_DATA},
    {"data": {"big": 12345678901234567890, "small": -0.5, "nul": "\x00"}},
    {"data": None},
    {"to": "x" * 255},
    {"to": "with space, ümlaut, 🎉 and 'quote'"},
]

BAD: list[tuple[str, Json]] = [
    ("title", {"title": ""}),
    ("title", {"title": "x" * 201}),
    ("title", {"title": 5}),
    ("title", {"title": None}),
    ("title", {"title": ["x"]}),
    ("title", {"title": "nul \x00"}),
    ("body", {"body": "x" * 4001}),
    ("body", {"body": 5}),
    ("body", {"body": "nul \x00"}),
    ("category", {"category": "x" * 65}),
    ("category", {"category": "Upper"}),
    ("category", {"category": "with space"}),
    ("category", {"category": "line\n"}),
    ("category", {"category": ""}),
    ("category", {"category": "ümlaut"}),
    ("priority", {"priority": "medium"}),
    ("priority", {"priority": "HIGH"}),
    ("priority", {"priority": None}),
    ("url", {"url": ""}),
    ("url", {"url": "//evil.example"}),
    ("url", {"url": "/\\evil.example"}),
    ("url", {"url": "/\t/evil.example"}),
    ("url", {"url": "javascript:alert(1)"}),
    ("url", {"url": "JaVaScRiPt:alert(1)"}),
    ("url", {"url": " https://example.com"}),
    ("url", {"url": "https://example.com\n"}),
    ("url", {"url": "https:example.com"}),
    ("url", {"url": "https://"}),
    ("url", {"url": "https:///path"}),
    ("url", {"url": "ftp://example.com"}),
    ("url", {"url": "data:text/html,x"}),
    ("url", {"url": "example.com"}),
    ("url", {"url": "relative/path"}),
    ("data", {"data": {**LONGEST_DATA, "x": LONGEST_DATA["x"] + "y"}}),
    ("data", {"data": []}),
    ("data", {"data": "text"}),
    ("data", {"data": 5}),
    ("to", {"to": ""}),
    ("to", {"to": []}),
    ("to", {"to": ["ada", ""]}),
    ("to", {"to": "x" * 256}),
    ("to", {"to": "line\nbreak"}),
    ("to", {"to": "nul \x00"}),
    ("to", {"to": 5}),
    ("to", {"to": [5]}),
    ("to", {"to": None}),
    ("to", {"to": {"sub": "ada"}}),
]


async def test_every_valid_value_is_accepted_and_returned_unchanged(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    for fields in GOOD:
        with subtests.test(str(fields)[:80]):
            answer = await post(server.service, **{"to": "ada", "title": "x", **fields})
            assert answer.status_code == 201, answer.text
            sent = (await server.service.get(answer.headers["location"])).json()
            posted = {name: value for name, value in fields.items() if name != "to"}
            assert {name: sent[name] for name in posted} == posted


async def test_every_invalid_value_gets_a_422_that_names_its_field(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    for field, fields in BAD:
        with subtests.test(str(fields)[:80]):
            answer = await post(server.service, **{"to": "ada", "title": "x", **fields})
            assert answer.status_code == 422, answer.text
            problem = answer.json()
            assert problem["code"] == "validation_error"
            assert {error["field"].split(".")[0] for error in problem["errors"]} == {field}, problem
    assert (await (await server.user()).inbox())["seq"] == 0


async def test_oversized_data_is_refused_without_encoding_it(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification, "dumps", Mock(side_effect=AssertionError))
    for data in ({"a": [0.1] * 43_000}, {f"m{number}": 1 for number in range(20_000)}):
        answer = await post(server.service, to="ada", title="x", data=data)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["message"] == "it must have at most 8,192 bytes when encoded"


async def test_a_missing_required_field_gets_a_422(server: LocalServer) -> None:
    for missing, fields in (("to", {"title": "x"}), ("title", {"to": "ada"})):
        answer = await post(server.service, **fields)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [missing]


NO_BODIES = [
    b"",
    b"nonsense",
    b"[]",
    b"null",
    b'"text"',
    b'{"to": "ada", "title": "x"',
    b'{"to": "ada", "title": "\xff"}',
    b'{"to": "ada", "title": "\\ud800"}',
    b'{"to": "ada", "title": "x", "data": {"x": NaN}}',
    b'{"to": "ada", "title": "x", "data": {"x": 1e999}}',
    b'{"to": "ada", "title": "x", "data": {"x": "\\udc00"}}',
    b'{"to": "ada", "title": "x", "data": {"\\udc00": 1}}',
    b'{"to": "ada", "title": "x", "data": ' + b'{"x":' * 500 + b"1" + b"}" * 500 + b"}",
    b'{"to": "ada", "title": "x", "data": ' + b'{"x":' * 30_000 + b"1" + b"}" * 30_000 + b"}",
]


async def test_a_body_that_is_not_a_json_notification_gets_a_422(
    server: LocalServer, subtests: pytest.Subtests
) -> None:
    for content in NO_BODIES:
        with subtests.test(content[:80].decode(errors="replace")):
            answer = await server.service.post("/v1/notifications", content=content, headers=JSON)
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"]
    assert (await (await server.user()).inbox())["seq"] == 0


async def test_a_byte_order_mark_before_json_is_ignored(server: LocalServer) -> None:
    body = b'\xef\xbb\xbf{"to": "ada", "title": "x"}'
    headers = {"Content-Type": "application/json"}
    assert (await server.service.post("/v1/notifications", content=body, headers=headers)).status_code == 201
    batch = b'\xef\xbb\xbf[{"to": "ada", "title": "x"}]'
    answer = await server.service.post("/v1/notifications/batch", content=batch, headers=headers)
    assert answer.status_code == 201, answer.text
    lines = {"Content-Type": "application/x-ndjson"}
    answer = await server.service.post("/v1/notifications/batch", content=body, headers=lines)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/notifications/batch"])
async def test_a_compressed_body_gets_a_415_with_accept_encoding(server: LocalServer, path: str) -> None:
    body = gzip.compress(b'{"to": "ada", "title": "x"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = await server.service.post(path, content=body, headers=headers)
    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "identity"
    assert refused.json()["code"] == "unsupported_media_type"
    plain = headers | {"Content-Encoding": "Identity"}
    sent = (
        b'{"to": "ada", "title": "x"}' if path.endswith("notifications") else b'[{"to": "ada", "title": "x"}]'
    )
    assert (await server.service.post(path, content=sent, headers=plain)).status_code == 201


async def test_a_body_over_256_kib_gets_a_413(server: LocalServer) -> None:
    def body(size: int) -> bytes:
        start = b'{"to": "ada", "title": "x"'
        return start + b" " * (size - len(start) - 1) + b"}"

    limit = 256 * 1024
    answer = await server.service.post("/v1/notifications", content=body(limit), headers=JSON)
    assert answer.status_code == 201
    answer = await server.service.post("/v1/notifications", content=body(limit + 1), headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["code"] == "payload_too_large"
    assert (await (await server.user()).inbox())["seq"] == 1


async def test_a_chunked_body_over_the_limit_gets_a_413(
    server: LocalServer,
) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b" " * 8192

    answer = await server.service.post("/v1/notifications", content=endless(), headers=JSON)
    assert answer.status_code == 413


async def test_posting_requires_the_notify_scope(server: LocalServer) -> None:
    minter = await other_service(server, "tokens:mint", "admin")
    ada = await server.user()
    for caller, status, code in (
        (server.stranger, 401, "missing_token"),
        (Service(server.http, "garbage"), 401, "invalid_token"),
        (minter, 403, "insufficient_scope"),
        (Service(server.http, ada.token), 403, "insufficient_scope"),
    ):
        for path in ("/v1/notifications", "/v1/notifications/batch"):
            answer = await caller.post(path, json={"to": "ada", "title": "x"})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_an_unknown_recipient_is_created(server: LocalServer) -> None:
    await server.service.notify("nobody yet")
    answer = await server.service.get("/v1/users/nobody%20yet")
    assert answer.status_code == 200


async def test_an_unknown_recipient_is_refused_if_configured(start_server: StartServer) -> None:
    server = await start_server(unknown_recipients="reject")
    await server.user("ada")
    answer = await post(server.service, to=["ada", "bob"], title="x")
    assert answer.status_code == 422
    assert "bob" in answer.text
    assert (await server.service.get("/v1/users/bob")).status_code == 404
    assert (await (await server.user("ada")).inbox())["seq"] == 0
    await server.service.notify("ada")


# --- idempotency --------------------------------------------------------------------------------------------


async def test_repeating_a_post_with_its_idempotency_key_returns_the_first_response(
    server: LocalServer,
) -> None:
    async def send(key: str = "k") -> Any:
        return await server.service.post(
            "/v1/notifications", json={"to": "ada", "title": "x"}, headers={"Idempotency-Key": key}
        )

    first, again, other = await send(), await send(), await send("another")
    assert again.status_code == first.status_code == 201
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert other.json()["id"] != first.json()["id"]
    assert (await (await server.user()).inbox())["seq"] == 2


async def test_reusing_an_idempotency_key_with_another_body_gets_a_422(server: LocalServer) -> None:
    headers = {"Idempotency-Key": "k"}
    await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"}, headers=headers)
    for body in ({"to": "ada", "title": "y"}, {"to": ["ada", "bob"], "title": "x"}):
        answer = await server.service.post("/v1/notifications", json=body, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_key_reused"
        assert "use a new key for new content" in answer.json()["detail"]
    assert (await (await server.user()).inbox())["seq"] == 1


async def test_an_idempotent_retry_may_reorder_its_members_and_recipients(server: LocalServer) -> None:
    key = {"Idempotency-Key": "again"}
    asked = {"to": ["ada", "bob"], "title": "x", "data": {"a": 1, "b": {"c": 2, "d": [3, 4]}}}
    first = await server.service.post("/v1/notifications", json=asked, headers=key)
    same = {"data": {"b": {"d": [3, 4], "c": 2}, "a": 1}, "title": "x", "to": ["bob", "ada", "bob"]}
    again = await server.service.post("/v1/notifications", json=same, headers=key)
    assert again.status_code == 201
    assert again.json() == first.json()
    floats = same | {"data": {"a": 1.0, "b": {"c": 2.0, "d": [3.0, 4]}}}
    again = await server.service.post("/v1/notifications", json=floats, headers=key)
    assert again.json() == first.json()
    other = asked | {"data": {"a": 1, "b": {"c": 2, "d": [4, 3]}}}
    refused = await server.service.post("/v1/notifications", json=other, headers=key)
    assert refused.json()["code"] == "idempotency_key_reused"


async def test_concurrent_posts_with_one_key_create_one_notification(server: LocalServer) -> None:
    async def send(key: str) -> Any:
        return await server.service.post(
            "/v1/notifications", json={"to": "ada", "title": key}, headers={"Idempotency-Key": key}
        )

    keys = [f"key {index}" for index in range(5)]
    answers = await asyncio.gather(*(send(key) for key in keys * 8))
    assert {answer.status_code for answer in answers} <= {201, 409}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    items = (await (await server.user()).inbox())["items"]
    assert sorted(item["title"] for item in items) == keys
    assert {item["id"] for item in items} == ids


async def test_concurrent_posts_with_one_key_and_different_bodies_create_one_notification(
    server: LocalServer,
) -> None:
    async def send(title: str) -> Any:
        return await server.service.post(
            "/v1/notifications", json={"to": "ada", "title": title}, headers={"Idempotency-Key": "k"}
        )

    answers = await asyncio.gather(*(send(str(index)) for index in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201, *[422] * 9]
    assert (await (await server.user()).inbox())["seq"] == 1


async def test_each_service_has_its_own_idempotency_keys(server: LocalServer) -> None:
    other = await other_service(server, "notify")
    ids = set()
    for service in (server.service, other):
        answer = await service.post(
            "/v1/notifications", json={"to": "ada", "title": "x"}, headers={"Idempotency-Key": "k"}
        )
        ids.add(answer.json()["id"])
    assert len(ids) == 2


async def test_a_refused_post_does_not_use_its_idempotency_key(server: LocalServer) -> None:
    headers = {"Idempotency-Key": "k"}
    bad = await server.service.post("/v1/notifications", json={"to": "ada", "title": ""}, headers=headers)
    good = await server.service.post("/v1/notifications", json={"to": "ada", "title": "x"}, headers=headers)
    assert (bad.status_code, good.status_code) == (422, 201)


async def test_an_idempotency_key_has_1_to_255_characters(server: LocalServer) -> None:
    for key, status in (("k" * 255, 201), ("k" * 256, 422), ("", 422)):
        answer = await server.service.post(
            "/v1/notifications", json={"to": "ada", "title": "x"}, headers={"Idempotency-Key": key}
        )
        assert answer.status_code == status, answer.text


async def test_a_batch_can_be_retried_with_its_idempotency_key(server: LocalServer) -> None:
    async def send(*titles: str) -> Any:
        return await server.service.post(
            "/v1/notifications/batch",
            json=[{"to": "ada", "title": title} for title in titles],
            headers={"Idempotency-Key": "k"},
        )

    first, again, other = await send("x", "y"), await send("x", "y"), await send("x")
    assert again.json() == first.json()
    assert other.json()["code"] == "idempotency_key_reused"
    assert (await (await server.user()).inbox())["seq"] == 2


# --- batches ------------------------------------------------------------------------------------------------


def ndjson(posts: list[Json]) -> dict[str, Any]:
    lines = "\n".join(json.dumps(post) for post in posts) + "\n"
    return {"content": lines.encode(), "headers": {"Content-Type": "application/x-ndjson"}}


async def test_a_batch_is_stored_in_order_from_json_and_from_ndjson(server: LocalServer) -> None:
    posts: list[Json] = [
        {"to": ["ada", "bob"], "title": "first"},
        {"to": "ada", "title": "second"},
        {"to": "bob", "title": "third"},
    ]
    for options in ({"json": posts}, ndjson(posts)):
        answer = await server.service.post("/v1/notifications/batch", **options)
        assert answer.status_code == 201, answer.text
        items = answer.json()["items"]
        assert [set(item) for item in items] == [{"id", "recipients"}] * 3
        assert [item["recipients"] for item in items] == [2, 1, 1]
        for sub, expected in (("ada", [1, 0]), ("bob", [2, 0])):
            newest = (await (await server.user(sub)).inbox(limit=2))["items"]
            assert [item["id"] for item in newest] == [items[index]["id"] for index in expected]


async def test_a_batch_has_at_most_1000_notifications(server: LocalServer) -> None:
    assert len(await server.service.notify_many("ada", 1000)) == 1000
    posts = [{"to": "ada", "title": "x"}] * 1001
    assert (await server.service.post("/v1/notifications/batch", json=posts)).status_code == 422
    assert (await server.service.post("/v1/notifications/batch", **ndjson(posts))).status_code == 422
    assert (await (await server.user()).inbox())["seq"] == 1000


async def test_one_bad_item_refuses_the_whole_batch_with_its_index(server: LocalServer) -> None:
    posts: list[Json] = [{"to": "ada", "title": "x"} for _ in range(5)]
    posts[3]["title"] = ""
    for options in ({"json": posts}, ndjson(posts)):
        answer = await server.service.post("/v1/notifications/batch", **options)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == ["3.title"], answer.text
    assert (await (await server.user()).inbox())["seq"] == 0


async def test_a_line_that_is_not_json_is_named_by_its_index(server: LocalServer) -> None:
    content = b'{"to": "ada", "title": "x"}\nnonsense\n{"to": "ada", "title": "x"}'
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await server.service.post("/v1/notifications/batch", content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].split(".")[0] == "1"


async def test_an_invalid_or_empty_batch_gets_a_422(server: LocalServer, subtests: pytest.Subtests) -> None:
    for content in (b"", b"[]", b"{}", b"null", b"nonsense", b"[1]", b"[null]", b"[[]]"):
        with subtests.test(content.decode()):
            answer = await server.service.post("/v1/notifications/batch", content=content, headers=JSON)
            assert answer.status_code == 422, answer.text


async def test_a_batch_over_8_mib_gets_a_413(server: LocalServer) -> None:
    content = b'[{"to": "ada", "title": "x"}' + b" " * (8 * 1024 * 1024) + b"]"
    answer = await server.service.post("/v1/notifications/batch", content=content, headers=JSON)
    assert answer.status_code == 413
    content = b'[{"to": "ada", "title": "x"}' + b" " * (7 * 1024 * 1024) + b"]"
    answer = await server.service.post("/v1/notifications/batch", content=content, headers=JSON)
    assert answer.status_code == 201


async def test_concurrent_posts_to_the_same_users_take_seqs_without_gaps(server: LocalServer) -> None:
    subs = ["ada", "bob", "cyd"]
    await asyncio.gather(*(server.service.notify(subs if index % 2 else subs[::-1]) for index in range(60)))
    for sub in subs:
        user = await server.user(sub)
        items = (await user.inbox(limit=200))["items"]
        assert [item["created_seq"] for item in items] == list(range(60, 0, -1))


# --- the sender's view --------------------------------------------------------------------------------------


async def test_the_sender_sees_the_notification_and_its_delivery_counts(server: LocalServer) -> None:
    posted = await server.service.notify(["ada", "bob", "cyd"], "Hello", body="there", data={"x": 1})
    path = f"/v1/notifications/{posted['id']}"

    async def counts() -> dict[str, int]:
        sent = (await server.service.get(path)).json()
        return {name: sent[name] for name in ("recipients", "delivered", "seen", "read")}

    sent = (await server.service.get(path)).json()
    assert (sent["title"], sent["body"], sent["data"]) == ("Hello", "there", {"x": 1})
    assert sent["created_at"] == posted["created_at"]
    assert await counts() == {"recipients": 3, "delivered": 0, "seen": 0, "read": 0}

    ada, bob = await server.user("ada"), await server.user("bob")
    async with ada.socket(since=0) as socket:
        await socket.next("live")
        assert (await socket.ask(type="ack", seq=1))["type"] == "ok"
    assert await counts() == {"recipients": 3, "delivered": 1, "seen": 0, "read": 0}
    await bob.post("/v1/inbox/seen", json={"up_to": 1})
    assert await counts() == {"recipients": 3, "delivered": 1, "seen": 1, "read": 0}
    await ada.patch(f"/v1/inbox/{posted['id']}", json={"read": True})
    assert (await counts())["read"] == 1


async def test_only_the_posting_service_and_admins_see_a_notification(server: LocalServer) -> None:
    poster, stranger = await other_service(server, "notify"), await other_service(server, "notify")
    admin = await other_service(server, "admin")
    posted = await poster.notify("ada")
    path = f"/v1/notifications/{posted['id']}"
    assert (await poster.get(path)).status_code == 200
    assert (await admin.get(path)).status_code == 200
    foreign, missing = await stranger.get(path), await stranger.get(path[:-4] + "0000")
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() == missing.json()


async def test_an_invalid_notification_id_gets_a_404_or_405(server: LocalServer) -> None:
    for identifier in ("nonsense", "%00", "1", "0" * 500, "batch", "%F0%9F%8E%89"):
        answer = await server.service.get(f"/v1/notifications/{identifier}")
        assert answer.status_code in {404, 405}, answer.text
