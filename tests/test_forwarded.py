"""The scheme that a proxy says, as a list and in any case; and ids as other programs write them."""

import pytest

from tests.databases import settings_for
from tests.servers import LocalServer, serving

BELIEVED = [
    ("https", True),
    ("HTTPS", True),
    ("https,http", True),
    ("https , http", True),
    ("Https, https", True),
    ("http, https", False),
    ("HTTP", False),
    ("", False),
    (",https", False),
    ("gopher", False),
]


@pytest.mark.parametrize(("said", "is_https"), BELIEVED)
async def test_the_first_scheme_that_a_named_proxy_says_counts(
    sqlite_url: str, said: str, is_https: bool
) -> None:
    async with serving(settings_for(sqlite_url, forwarded_allow_ips="127.0.0.1")) as server:
        answer = await server.http.get("/healthz", headers={"X-Forwarded-Proto": said})
        assert ("strict-transport-security" in answer.headers) is is_https
        twice = [("X-Forwarded-Proto", said), ("X-Forwarded-Proto", "http")]
        again = await server.http.get("/healthz", headers=twice)
        assert ("strict-transport-security" in again.headers) is is_https


async def test_nobody_else_is_believed(sqlite_url: str) -> None:
    async with serving(settings_for(sqlite_url, forwarded_allow_ips="192.0.2.1")) as server:
        for said, _ in BELIEVED:
            answer = await server.http.get("/healthz", headers={"X-Forwarded-Proto": said})
            assert "strict-transport-security" not in answer.headers


async def test_an_id_is_read_in_any_case(server: LocalServer) -> None:
    ada = await server.user("ada")
    ids = [(await server.service.notify("ada", str(number)))["id"].upper() for number in range(5)]
    assert (await server.service.get(f"/v1/notifications/{ids[0]}")).status_code == 200
    assert (await ada.get(f"/v1/inbox/{ids[0]}")).status_code == 200
    assert (await ada.patch(f"/v1/inbox/{ids[0]}", json={"read": True})).status_code == 200
    assert (await ada.post("/v1/inbox/read", json={"ids": [ids[1]]})).status_code == 200
    async with ada.socket(since="latest") as socket:
        await socket.until("live")
        await socket.send(type="archive", ids=[ids[2]], ref="a")
        assert [one for one in await socket.until("ok") if one["type"] == "error"] == []
    assert (await ada.delete(f"/v1/inbox/{ids[3]}")).status_code in {200, 204}
    items = {item["title"]: item for item in (await ada.whole_inbox()).items.values()}
    assert (items["0"]["read_at"] is None, items["1"]["read_at"] is None) == (False, False)
    assert items["2"]["archived_at"] is not None
    assert items.get("3", {"deleted_at": "x"})["deleted_at"] is not None
    assert items["4"]["read_at"] is None
