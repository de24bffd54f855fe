"""The scheme that a proxy says, as a list and in any case; and ids as other programs write them."""

from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.observability.audit import Event
from gateway.settings.networks import unmapped, unmapped_network
from tests.support.databases import settings_for
from tests.support.servers import LocalServer, process, serving
from tests.support.trail import Trail
from tests.support.waiting import until

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
async def test_the_first_scheme_from_a_trusted_proxy_counts(
    sqlite_url: str, said: str, is_https: bool
) -> None:
    async with serving(settings_for(sqlite_url, forwarded_allow_ips="127.0.0.1")) as server:
        answer = await server.http.get("/healthz", headers={"X-Forwarded-Proto": said})
        assert ("strict-transport-security" in answer.headers) is is_https
        twice = [("X-Forwarded-Proto", said), ("X-Forwarded-Proto", "http")]
        again = await server.http.get("/healthz", headers=twice)
        assert ("strict-transport-security" in again.headers) is is_https


async def test_a_scheme_from_an_untrusted_peer_is_ignored(sqlite_url: str) -> None:
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


@pytest.mark.parametrize("named", ["127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.1", "::ffff:127.0.0.0/104"])
async def test_a_gateway_on_ipv6_trusts_an_ipv4_proxy(sqlite_url: str, trail: Trail, named: str) -> None:
    # On `::` each peer of IPv4 has an address of IPv6.
    async with serving(settings_for(sqlite_url, host="::", forwarded_allow_ips=named)) as server:
        said = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7, ::ffff:127.0.0.1"}
        answer = await server.http.get("/v1/inbox", headers={**said, "Authorization": "Bearer none"})
        assert "strict-transport-security" in answer.headers
        assert trail.last(Event.REFUSED)["source"] == "192.0.2.7"


async def test_a_gateway_on_ipv6_identifies_ipv4_peers_by_their_ipv4_address(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with process(sqlite_url, tmp_path, options=("--host", "::")) as (one, server):
        assert (await server.http.get("/metrics")).status_code == 200
        await server.http.get("/v1/inbox", headers={"Authorization": "Bearer none"})
        url = one.base.replace("http", "ws")
        async with connect(f"{url}/v1/ws", additional_headers={"Authorization": "Bearer no"}) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        await until(lambda: one.log.read_text().count('"source":"127.0.0.1"') == 2, "both are recorded")
        assert "::ffff:" not in one.log.read_text()


UNMAPPED = {
    "::ffff:192.0.2.1": "192.0.2.1",
    "::FFFF:c000:0201": "192.0.2.1",
    "192.0.2.1": "192.0.2.1",
    "2001:db8::1": "2001:db8::1",
    "::1": "::1",
    "::ffff:one": "::ffff:one",
    "": "",
}


@pytest.mark.parametrize(("written", "meant"), UNMAPPED.items())
def test_only_an_ipv4_mapped_address_is_rewritten(written: str, meant: str) -> None:
    assert unmapped(written) == meant


@pytest.mark.parametrize("network", ["10.0.0.0/8", "2001:db8::/32", "::/0", "::1", "::/96", "192.0.2.1"])
def test_only_an_ipv4_mapped_network_is_rewritten(network: str) -> None:
    assert unmapped_network(network) == network
