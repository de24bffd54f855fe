"""What the gateway takes from uvicorn and websockets that is not public.

An upgrade that moves a name fails here, before it fails under load. `pyproject.toml` bounds both libraries
below the next version that may. CONTRIBUTING.md says how to raise a bound.
"""

import ast
import asyncio
import inspect
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

from gateway.server import process
from gateway.transport import (
    fast_handshake,
    fast_path,
    held_bytes,
    http,
    lingering,
    pipelining,
    quiet_protocol,
    websocket,
)

ROOT = Path(__file__).parents[2]

INHERITED: list[tuple[ModuleType, str, type, str]] = [
    (
        http,
        "GatewayHttp",
        HttpToolsProtocol,
        """
        _should_upgrade app_state client connection_lost connection_made connections cycle
        expect_100_continue flow headers loop on_header on_headers_complete parser pause_writing
        resume_writing scope server_state shutdown transport url
        """,
    ),
    (
        pipelining,
        "PipeliningProtocol",
        HttpToolsProtocol,
        """
        _should_upgrade _unset_keepalive_if_required connection_lost cycle data_received flow loop
        on_body on_message_complete on_response_complete parser resume_writing
        timeout_keep_alive timeout_keep_alive_handler timeout_keep_alive_task transport
        """,
    ),
    (
        fast_handshake,
        "UpgradingProtocol",
        HttpToolsProtocol,
        """
        app_state client config connections flow headers logger loop parser root_path scope server_state
        tasks transport url
        """,
    ),
    (
        held_bytes,
        "HoldingProtocol",
        HttpToolsProtocol,
        "_start_asgi_task client cycle headers loop on_response_complete scope tasks url",
    ),
    (
        fast_path,
        "FastPathProtocol",
        HttpToolsProtocol,
        "_start_asgi_task app_state config loop tasks transport",
    ),
    (lingering, "LingeringProtocol", HttpToolsProtocol, "connection_lost flow loop transport"),
    (
        websocket,
        "GatewayWebSocket",
        WebSocketsSansIOProtocol,
        """
        app app_state client close_sent config conn connection_lost connections data_received default_headers
        disconnected eof_received handle_connect handshake_complete logger receive run_asgi scope send
        send_500_response shutdown transport
        """,
    ),
    (quiet_protocol, "QuietProtocol", ServerProtocol, "parse reject"),
    (
        process,
        "Server",
        uvicorn.Server,
        "capture_signals config handle_exit on_tick server_state should_exit shutdown started startup",
    ),
]
"""For each class of the gateway: what it overrides or uses of the one it inherits from."""

USED: dict[type, str] = {
    RequestResponseCycle: "access_log access_logger body chunked_encoding default_headers disconnected "
    "keep_alive message_event more_body on_response response_complete response_started run_asgi scope",
    FlowControl: "pause_reading read_paused resume_reading write_paused",
    ServerProtocol: "data_to_send debug logger parser send_response",
    httptools.HttpRequestParser: "feed_data get_http_version get_method should_upgrade",
    ServerState: "connections default_headers tasks",
}
"""What is used of the objects that these classes hold."""


def made(kind: Any) -> Any:
    """Return an object of a library."""
    config = uvicorn.Config(app="tests")
    if kind is uvicorn.Server:
        return kind(config)
    if issubclass(kind, asyncio.Protocol):
        config.load_app = lambda: None  # type: ignore[method-assign]
        config.load()
        return kind(config, ServerState(), {}, asyncio.get_running_loop())
    if kind is RequestResponseCycle:
        arguments: dict[str, Any] = {name: {} for name in inspect.signature(kind).parameters}
        return kind(**arguments)
    return kind(None) if kind in {FlowControl, httptools.HttpRequestParser} else kind()


def names_in(module: ModuleType, name: str) -> set[str]:
    """Return the methods of a class, and the attributes of itself that it uses."""
    tree = ast.parse(inspect.getsource(module))
    (defined,) = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name]
    attributes = {
        one.attr
        for one in ast.walk(defined)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self"
    }
    methods = {one.name for one in defined.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    return attributes | methods


@pytest.mark.parametrize(
    ("module", "name", "base", "names"), INHERITED, ids=[name for _, name, _, _ in INHERITED]
)
async def test_inherited_library_names_exist_and_are_listed(
    module: ModuleType, name: str, base: type, names: str
) -> None:
    has = set(dir(made(base))) | {"scope", "url", "headers", "expect_100_continue"} & set(names.split())
    taken = (names_in(module, name) & has) - set(dir(object))
    assert taken == set(names.split())


@pytest.mark.parametrize("kind", USED)
async def test_attributes_used_on_library_objects_exist(kind: type) -> None:
    held = made(kind)
    assert [name for name in USED[kind].split() if not hasattr(held, name)] == []


def test_both_libraries_have_an_upper_version_bound() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounded = {one for one in needed if one.startswith(("uvicorn", "websockets"))}
    assert bounded == {"uvicorn[standard]>=0.54,<0.55", "websockets>=17,<18"}
