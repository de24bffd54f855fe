"""The preferences over REST, and what the user's other clients and the sender see of them."""

import asyncio
import json
from collections.abc import Hashable
from typing import Any

import pytest

from gateway.api.preferences import MAX_CATEGORIES, MAX_WINDOWS
from gateway.observability.audit import Event
from tests.support.clients import Caller, Service
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, StartServer, serving
from tests.support.trail import Trail

OWN = "/v1/inbox/preferences"
OF_ADA = "/v1/users/ada/preferences"
EMPTY: dict[str, Any] = {"categories": {}, "timezone": None, "quiet_hours": [], "quiet_until": None}
ALWAYS = [
    {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "from": begin, "until": end}
    for begin, end in (("00:00", "12:00"), ("12:00", "00:00"))
]
FULL: dict[str, Any] = {
    "categories": {"orders": {"muted": False}, "promo": {"muted": True}},
    "timezone": "Europe/Berlin",
    "quiet_hours": [{"days": ["mon", "sun"], "from": "22:00", "until": "07:00"}],
    "quiet_until": "2026-11-20T09:30:00.000Z",
}


BOTH_METHODS: list[tuple[str, dict[str, Any]]] = [("GET", {}), ("PUT", {"json": FULL})]


async def put(caller: Caller, asked: Any, path: str = OWN, **headers: str) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.request("PUT", path, json=asked, headers=given)


async def test_preferences_are_replaced_as_a_whole(server: LocalServer) -> None:
    ada = await server.user()
    first = await ada.get(OWN)
    assert (first.status_code, first.json()) == (200, EMPTY)
    assert first.headers["Cache-Control"] == "private, no-cache"
    answer = await put(ada, FULL)
    assert (answer.status_code, answer.json()) == (200, FULL)
    found = await ada.get(OWN)
    assert (found.content, found.headers["ETag"]) == (answer.content, answer.headers["ETag"])
    assert found.headers["ETag"].startswith('"')
    assert found.headers["ETag"] != first.headers["ETag"]
    rest = await put(ada, {"timezone": "Asia/Tokyo"})
    assert rest.json() == EMPTY | {"timezone": "Asia/Tokyo"}
    assert (await put(ada, {})).headers["ETag"] == first.headers["ETag"]
    bob = await server.user("bob")
    assert (await bob.get(OWN)).json() == EMPTY


async def test_preferences_that_mean_the_same_have_the_same_tag(server: LocalServer) -> None:
    ada = await server.user()
    one = await put(ada, FULL)
    window = {"until": "07:00", "from": "22:00", "days": ["sun", "mon"]}
    categories = {"promo": {"muted": True}, "orders": {"muted": False}}
    until = "2026-11-20T11:30:00.0001+02:00"
    other = await put(ada, FULL | {"quiet_hours": [window], "categories": categories, "quiet_until": until})
    assert (other.json(), other.headers["ETag"]) == (FULL, one.headers["ETag"])


async def test_a_known_tag_gets_304(server: LocalServer) -> None:
    ada = await server.user()
    tag = (await put(ada, FULL)).headers["ETag"]
    known = await ada.get(OWN, headers={"If-None-Match": tag})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", tag)
    await put(ada, {})
    assert (await ada.get(OWN, headers={"If-None-Match": tag})).status_code == 200


@pytest.mark.parametrize("path", [OWN, OF_ADA])
async def test_a_client_that_has_not_seen_the_preferences_cannot_replace_them(
    server: LocalServer, path: str
) -> None:
    caller = await server.user() if path == OWN else server.service
    await server.user()
    old = (await caller.get(path)).headers["ETag"]
    new = (await put(caller, FULL, path, If_Match=old)).headers["ETag"]
    refused = await put(caller, {}, path, If_Match=old)
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert (await caller.get(path)).json() == FULL
    unquoted = await put(caller, {}, path, If_Match=new.strip('"'))
    assert (unquoted.status_code, "in double quotes" in unquoted.json()["detail"]) == (412, True)
    assert (await put(caller, FULL, path, If_Match="*")).status_code == 200
    assert (await put(caller, {}, path, If_Match=f'"other", {new}')).status_code == 200


async def test_of_many_clients_with_the_same_tag_one_changes_the_preferences(server: LocalServer) -> None:
    ada = await server.user()
    tag = (await ada.get(OWN)).headers["ETag"]
    zones = ("Asia/Tokyo", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
    answers = await asyncio.gather(*(put(ada, {"timezone": zone}, If_Match=tag) for zone in zones))
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await ada.get(OWN)).json() == winner


def windows(**changes: Any) -> dict[str, Any]:
    return {"quiet_hours": [{"days": ["mon"], "from": "22:00", "until": "07:00"} | changes]}


DAYS_RULE = "it must have 1 to 7 different days of mon, tue, wed, thu, fri, sat, sun"
TIME_RULE = "it must be a time from 00:00 to 23:59, such as 22:00"
ZONE_RULE = "it must be the name of an IANA time zone, such as Europe/Berlin, or null"
RFC_RULE = "it must be a time with its zone, such as 2026-11-20T09:30:00Z"
NO_SUCH_TIME = "there is no such day or time"

REFUSED: dict[str, tuple[Any, str, str]] = {
    "an unknown member": ({"timezon": "UTC"}, "timezon", "there is no such member: did you mean timezone?"),
    "a list": ([], "body", "it must be a JSON object"),
    "categories as a list": ({"categories": ["promo"]}, "categories", "it must be a JSON object"),
    "a category in capitals": (
        {"categories": {"Promo": {"muted": True}}},
        "categories",
        "'Promo' is no category: it must have 1 to 64 small letters, digits, . _ -",
    ),
    "an empty category": (
        {"categories": {"": {"muted": True}}},
        "categories",
        "'' is no category: it must have 1 to 64 small letters, digits, . _ -",
    ),
    "a category with a line break": (
        {"categories": {"promo\n": {"muted": True}}},
        "categories",
        "is no category: it must have 1 to 64 small letters, digits, . _ -",
    ),
    "too many categories": (
        {"categories": {f"c{number}": {"muted": True} for number in range(MAX_CATEGORIES + 1)}},
        "categories",
        "it must have at most 100 categories: leave out those not muted",
    ),
    "a category without muted": ({"categories": {"promo": {}}}, "categories.promo.muted", "it is required"),
    "muted as text": (
        {"categories": {"promo": {"muted": "yes"}}},
        "categories.promo.muted",
        "it must be true or false",
    ),
    "an unknown member of a category": (
        {"categories": {"promo": {"mutd": True}}},
        "categories.promo.mutd",
        "there is no such member: did you mean muted?",
    ),
    "an unknown zone": ({"timezone": "Mars/Olympus"}, "timezone", ZONE_RULE),
    "an empty zone": ({"timezone": ""}, "timezone", ZONE_RULE),
    "a path as a zone": ({"timezone": "../../../etc/passwd"}, "timezone", ZONE_RULE),
    "a folder as a zone": ({"timezone": "America"}, "timezone", ZONE_RULE),
    "a zone in small letters": (
        {"timezone": "europe/berlin"},
        "timezone",
        f"{ZONE_RULE}: did you mean Europe/Berlin?",
    ),
    "an offset as a zone": ({"timezone": "+01:00"}, "timezone", ZONE_RULE),
    "a number as a zone": ({"timezone": 1}, "timezone", "it must be a string"),
    "too many windows": (
        {"quiet_hours": windows()["quiet_hours"] * (MAX_WINDOWS + 1)},
        "quiet_hours",
        "it must have at most 20 windows: one window may have several days",
    ),
    "a window that is no object": ({"quiet_hours": ["22:00"]}, "quiet_hours.0", "it must be a JSON object"),
    "no days": (windows(days=[]), "quiet_hours.0.days", DAYS_RULE),
    "a day twice": (windows(days=["mon", "tue", "mon"]), "quiet_hours.0.days", DAYS_RULE),
    "an unknown day": (windows(days=["monday"]), "quiet_hours.0.days", DAYS_RULE),
    "a number as a day": (windows(days=[1]), "quiet_hours.0.days", DAYS_RULE),
    "a list as a day": (windows(days=[["mon"]]), "quiet_hours.0.days", DAYS_RULE),
    "one day as text": (windows(days="mon"), "quiet_hours.0.days", "it must be a list"),
    "24:00": (windows(until="24:00"), "quiet_hours.0.until", TIME_RULE),
    "a time with seconds": (windows(**{"from": "22:00:00"}), "quiet_hours.0.from", TIME_RULE),
    "a time with one digit": (windows(**{"from": "7:00"}), "quiet_hours.0.from", TIME_RULE),
    "a time with a line break": (windows(**{"from": "07:00\n"}), "quiet_hours.0.from", TIME_RULE),
    "other digits": (windows(**{"from": "\u0660\u0667:\u0660\u0660"}), "quiet_hours.0.from", TIME_RULE),
    "equal times": (
        windows(until="22:00"),
        "quiet_hours.0",
        "from and until must differ: for a whole day, name two windows, 00:00 to 12:00 and 12:00 to 00:00",
    ),
    "a window without an end": (
        {"quiet_hours": [{"days": ["mon"], "from": "22:00"}]},
        "quiet_hours.0.until",
        "it is required",
    ),
    "a window with the name of the code": (
        {"quiet_hours": [{"days": ["mon"], "begin": "22:00", "until": "07:00"}]},
        "quiet_hours.0.begin",
        "there is no such member, only days, from, until",
    ),
    "a time without a zone": ({"quiet_until": "2026-11-20T09:30:00"}, "quiet_until", RFC_RULE),
    "a date": ({"quiet_until": "2026-11-20"}, "quiet_until", RFC_RULE),
    "a day that does not exist": ({"quiet_until": "2026-02-30T09:30:00Z"}, "quiet_until", NO_SUCH_TIME),
    "an hour that does not exist": ({"quiet_until": "2026-02-20T24:00:00Z"}, "quiet_until", NO_SUCH_TIME),
    "a time before all": (
        {"quiet_until": "0001-01-01T00:00:00+23:00"},
        "quiet_until",
        "it must be a time between 1970 and 9999",
    ),
    "a time after all": (
        {"quiet_until": "9999-12-31T23:59:59-23:00"},
        "quiet_until",
        "it must be a time between 1970 and 9999",
    ),
    "seconds since 1970": ({"quiet_until": 1_700_000_000}, "quiet_until", "it must be a string"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_document_is_refused_with_its_field_and_the_rule(
    gateway: LocalServer, case: str
) -> None:
    asked, field, message = REFUSED[case]
    ada = await gateway.user()
    answer = await put(ada, asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), answer.text
    errors = {error["field"]: error["message"] for error in answer.json()["errors"]}
    assert message in errors[field]
    assert (await ada.get(OWN)).json() == EMPTY


async def test_as_much_as_allowed_is_taken(gateway: LocalServer) -> None:
    ada = await gateway.user()
    asked = {
        "categories": {f"{number:064}": {"muted": True} for number in range(MAX_CATEGORIES)},
        "timezone": "America/Argentina/ComodRivadavia",
        "quiet_hours": [ALWAYS[0] for _ in range(MAX_WINDOWS)],
        "quiet_until": "9999-12-31T23:59:59.999Z",
    }
    answer = await put(gateway.service, asked, OF_ADA)
    assert (answer.status_code, answer.json()) == (200, asked)
    assert (await put(ada, asked)).json() == asked


async def test_a_required_category_cannot_be_muted(start_server: StartServer) -> None:
    server = await start_server(required_categories=("security",))
    ada = await server.user()
    for caller, path in ((ada, OWN), (server.service, OF_ADA)):
        refused = await put(caller, {"categories": {"security": {"muted": True}}}, path)
        assert refused.status_code == 422
        assert refused.json()["errors"] == [
            {
                "field": "categories.security.muted",
                "message": "the operator requires this category, so it must not be muted: leave it out",
            }
        ]
    answer = await put(ada, {"categories": {"security": {"muted": False}, "promo": {"muted": True}}})
    assert answer.status_code == 200
    for category in ("security", "promo"):
        await server.service.notify("ada", category=category)
    assert [item["category"] for item in (await ada.inbox())["items"]] == ["security"]


async def test_a_category_that_became_required_comes_though_it_is_muted(database_url: str) -> None:
    async with serving(settings_for(database_url)) as before:
        ada = await before.user()
        await put(ada, {"categories": {"security": {"muted": True}}})
        await before.service.notify("ada", category="security")
        assert (await ada.inbox())["items"] == []
    async with serving(settings_for(database_url, required_categories=("security",))) as after:
        await after.service.notify("ada", category="security")
        ada = await after.user()
        assert len((await ada.inbox())["items"]) == 1
        # The other preferences can still be changed.
        kept = {"categories": {"security": {"muted": True}}, "timezone": "Asia/Tokyo"}
        answer = await put(ada, kept)
        assert (answer.status_code, answer.json()) == (200, EMPTY | kept)
        assert (await put(ada, {})).status_code == 200
        assert (await put(ada, kept)).status_code == 422


async def test_the_sender_sees_how_many_have_muted_it(server: LocalServer) -> None:
    ada = await server.user()
    await put(ada, {"categories": {"promo": {"muted": True}}})
    posted = await server.service.notify(["ada", "bob"], category="promo")
    assert posted["recipients"] == 2
    sent = (await server.service.get(f"/v1/notifications/{posted['id']}")).json()
    counts = {name: sent[name] for name in ("recipients", "reached", "muted", "delivered", "seen", "read")}
    assert counts == {"recipients": 2, "reached": 1, "muted": 1, "delivered": 0, "seen": 0, "read": 0}
    assert (await ada.get(f"/v1/inbox/{posted['id']}")).status_code == 404


async def test_an_administrator_manages_the_preferences_of_a_user(server: LocalServer, trail: Trail) -> None:
    ada = await server.user()
    answer = await put(server.service, FULL, OF_ADA)
    assert (answer.status_code, answer.json()) == (200, FULL)
    assert (await ada.get(OWN)).content == answer.content
    assert (await server.service.get(OF_ADA)).content == answer.content
    (event,) = trail.of(Event.USER_CHANGED)
    assert (event["changed"], event["disabled"], event["subject"]) == (["preferences"], False, "user:ada")
    for method, body in BOTH_METHODS:
        unknown = await server.service.request(method, "/v1/users/nobody/preferences", **body)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    await server.service.post("/v1/users", json={"sub": "a/preferences"})
    slash = "/v1/users/a%2Fpreferences"
    assert (await server.service.get(slash)).json()["sub"] == "a/preferences"
    assert (await server.service.get(f"{slash}/preferences")).json() == EMPTY


async def test_only_the_user_and_administrators_may_see_and_change_preferences(server: LocalServer) -> None:
    ada = await server.user()
    made = await server.service.post("/v1/services", json={"name": "shop", "scopes": ["notify"]})
    key = await server.service.post(f"/v1/services/{made.json()['client_id']}/keys")
    shop = Service(server.http, key.json()["key"])
    cases = [
        (server.stranger, OWN, 401),
        (server.stranger, OF_ADA, 401),
        (server.service, OWN, 403),
        (shop, OWN, 403),
        (shop, OF_ADA, 403),
        (ada, OF_ADA, 403),
    ]
    for caller, path, status in cases:
        for method, body in BOTH_METHODS:
            answer = await caller.request(method, path, **body)
            assert (path, method, answer.status_code) == (path, method, status)
    assert (await ada.get(OWN)).json() == EMPTY


async def test_the_user_s_other_clients_are_told(server: LocalServer, each_encoding: str) -> None:
    ada = await server.user()
    async with ada.socket(since="latest") as one, ada.socket(since="latest") as other:
        await one.next("live")
        await other.next("live")
        await put(ada, FULL)
        expected = {"type": "preferences", "preferences": FULL}
        assert await one.next("preferences") == await other.next("preferences") == expected
        await put(server.service, {}, OF_ADA)
        assert await one.next("preferences") == {"type": "preferences", "preferences": EMPTY}
    async with ada.socket(since="latest") as later:
        assert [message["type"] for message in await later.until("live")] == ["hello", "live"]


async def test_a_stream_is_told_without_an_id(server: LocalServer) -> None:
    ada = await server.user()
    async with server.http.stream("GET", "/v1/stream?since=latest", headers=ada.headers) as stream:
        lines = stream.aiter_lines()
        async for line in lines:
            if line == "event: live":
                break
        event: list[str] = []
        await put(ada, {"timezone": "Asia/Tokyo"})
        async for line in lines:
            event = [*event, line] if line else []
            if line.startswith("data: ") and "event: preferences" in event:
                break
    assert event[0] == "event: preferences"
    told = {"type": "preferences", "preferences": EMPTY | {"timezone": "Asia/Tokyo"}}
    assert json.loads(event[1].removeprefix("data: ")) == told


async def test_notifications_carry_whether_they_alert(server: LocalServer, each_encoding: str) -> None:
    ada = await server.user()
    async with ada.socket(since="latest") as socket:
        await server.service.notify("ada")
        assert (await socket.next("notification"))["alert"] is True
        await put(ada, {"quiet_until": "9999-01-01T00:00:00Z"})
        await server.service.notify("ada", priority="high")
        await server.service.notify("ada", priority="urgent")
        quiet, urgent = [await socket.next("notification") for _ in range(2)]
        assert (quiet["alert"], urgent["alert"]) == (False, True)
        assert (urgent["unread"], urgent["unseen"]) == (3, 3)
        # A time in the past is no quiet.
        await put(ada, {"quiet_until": "2020-01-01T00:00:00Z"})
        await server.service.notify("ada")
        assert (await socket.next("notification"))["alert"] is True
        await put(ada, {"timezone": "Asia/Tokyo", "quiet_hours": ALWAYS})
    # What was told before is told again as it is now.
    async with ada.socket() as newest:
        replayed = [message["alert"] for message in await newest.until("live") if "alert" in message]
    assert replayed == [False, False, True, False]


async def test_changes_of_preferences_count_against_the_changes_of_the_user(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await server.user()
    charged: list[int] = []
    changes = server.state.rate_limits.changes
    charge = changes.charge

    def note(key: Hashable, amount: int = 1) -> None:
        charged.append(amount)
        charge(key, amount)

    monkeypatch.setattr(changes, "charge", note)
    categories = {f"{number:064}": {"muted": True} for number in range(MAX_CATEGORIES)}
    async with ada.socket(since="latest") as one, ada.socket(since="latest") as other:
        await one.next("live")
        await other.next("live")
        await put(ada, {"categories": categories})
    size = len(json.dumps({"categories": categories}))
    # Without the spaces of this JSON, and 1 KiB for the look-up, once for each socket.
    assert 2 * (size * 0.9 + 1024) // 1024 <= sum(charged) <= 2 * (size + 1024) / 1024
