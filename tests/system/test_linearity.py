"""What one caller sends costs at most linear time in its size.

Each parser of outside input is fed its worst input at 1, 4 and 16 times a size, and may take at most 5 times
as much for each 4 times. A parser that is quadratic takes 16 times as much.

- **Patterns** are counted in steps, by a matcher that backtracks as `re` does (`steps.py`). All patterns of
  the gateway are found in its source, and the inputs are made of what a pattern is made of.
- **Python and C** cannot be counted: what `json`, `httptools`, `urllib` and pydantic do is in C, and a
  processor counts instructions only where its kernel lets it, which a container seldom does. So it is the
  CPU time of this thread, which other processes do not add to: the least of several runs at one size over
  the least at the other, both in turn, so that a slow machine is slow for both. From 1 to 16 times, 25 is
  allowed; linear is 16, and quadratic 256.
"""

import ast
import asyncio
import importlib
import itertools
import json
import logging
import pkgutil
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

import gateway
from gateway.api import inbox_models as inbox_api
from gateway.api.batch_body import split_array, split_lines
from gateway.api.body import read_json
from gateway.api.handshake import resume_after
from gateway.api.query import parameter
from gateway.api.validation import as_invalid
from gateway.auth import jws, services
from gateway.auth.issuer_keys import FetchError, read_jwks
from gateway.auth.names import check_sub
from gateway.auth.passwords import check_password
from gateway.backplane import hints
from gateway.errors import GatewayError
from gateway.observability import audit, console_log
from gateway.observability.audit import Event
from gateway.protocol.commands import BadCommand, decode_command
from gateway.protocol.items import is_id
from gateway.protocol.links import is_link
from gateway.protocol.terminal import escape, shown
from gateway.settings.origins import read_origin
from gateway.transport.conditional import is_known
from tests.support.clients import open_socket
from tests.support.databases import API_KEY, settings_for
from tests.support.servers import LocalServer, serving
from tests.support.steps import Steps, texts_of

TIMES = (1, 4, 16)
ALLOWED = 5
"""How much more four times the input may cost. Linear is 4; the rest is for what does not grow evenly."""

ROUNDS = 40
"""How many rounds of measuring there are at most, until the cost of the larger input is within bounds."""

LARGE, MEDIUM = 10_000, 1000
"""How many characters the worst input of a pattern has, once: of one that reads the log, and of others."""

# --- patterns -----------------------------------------------------------------------------------------------

OWN_FILES = {"gateway.web.reference", "gateway.web.scripts"}
"""Their patterns read files of the package, once, and never what comes from outside."""


def sources() -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each module that reads what comes from outside."""
    folder = Path(gateway.__path__[0])
    for found in pkgutil.walk_packages([str(folder)], "gateway."):
        if found.name not in OWN_FILES and not found.name.endswith("__main__"):
            path = folder.joinpath(*found.name.split(".")[1:])
            file = path / "__init__.py" if found.ispkg else path.with_suffix(".py")
            yield found.name, file.read_text()


def uses_of_re(source: str) -> list[str]:
    """Return which functions of `re` a module calls."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    attributes = [func for func in calls if isinstance(func, ast.Attribute)]
    return [one.attr for one in attributes if isinstance(one.value, ast.Name) and one.value.id == "re"]


def patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    """Yield the patterns in the value of a name of a module."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(getattr(value, "__self__", None), re.Pattern):
        yield value.__self__
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from patterns_in(inner)


def all_patterns() -> list[tuple[str, re.Pattern[Any], bool]]:
    """Return each pattern with its name, and whether it is looked for anywhere in a text."""
    found = []
    for name, source in sources():
        if "re" in source:
            for attribute, value in vars(importlib.import_module(name)).items():
                used = set(re.findall(rf"\b{attribute}\.(\w+)\(", source)) | {getattr(value, "__name__", "")}
                anywhere = not used & {"match", "fullmatch"}
                if f"\n{attribute} = " in source:
                    found += [(f"{name}.{attribute}", one, anywhere) for one in patterns_in(value)]
    return found


PATTERNS = all_patterns()


def worst_inputs(pattern: re.Pattern[Any]) -> list[tuple[str, str, str]]:
    """Return inputs as beginning, what is repeated, and end: of what the pattern is made of, and others."""
    state = list(dict.fromkeys([*texts_of(pattern), "a", " "]))[:9]
    pairs = list(itertools.permutations(state, 2))
    return [
        *(("", part, end) for part in state for end in ("", "\n", "\x00", "a")),
        *(("", a + b, "") for a, b in pairs),
        *((a, b, end) for a, b in pairs for end in ("", "\x00", "a")),
    ]


def repeated(made_of: tuple[str, str, str], number: int) -> str:
    beginning, part, end = made_of
    return beginning + part * number + end


def test_every_pattern_of_the_gateway_is_counted() -> None:
    called = [(name, call) for name, source in sources() for call in uses_of_re(source)]
    assert {call for _, call in called} == {"compile"}, "a pattern is compiled once, at the top of its module"
    # One line of `logs` compiles the patterns of a list, and each is in it once.
    assert len(PATTERNS) == len(called)


@pytest.mark.parametrize(
    ("name", "pattern", "anywhere"), PATTERNS, ids=[f"{one[0]}-{n}" for n, one in enumerate(PATTERNS)]
)
def test_a_pattern_takes_linear_steps(name: str, pattern: re.Pattern[Any], anywhere: bool) -> None:
    steps = Steps(pattern)
    costs = []
    for made_of in worst_inputs(pattern):
        small, large = (steps.count(repeated(made_of, 24 * n), anywhere=anywhere) for n in (1, 4))
        assert large <= ALLOWED * small, made_of
        costs.append((large / len(made_of[1]), made_of))
    worst = max(costs)[1]
    number = (LARGE if ".logs." in name else MEDIUM) // len(worst[1])
    counted = [steps.count(repeated(worst, number * times), anywhere=anywhere) for times in TIMES]
    assert all(b <= ALLOWED * a for a, b in itertools.pairwise(counted)), (worst, counted)


@pytest.mark.parametrize(
    "pattern", [r"(/[^\s?]*)\?[^\s]+", r"\beyJ[\w-]+\.", r"a+$", r"(?:a|b)*c", r"\s*,\s*;"]
)
def test_the_steps_of_a_quadratic_pattern_are_seen(pattern: str) -> None:
    steps = Steps(re.compile(pattern))
    inputs = worst_inputs(re.compile(pattern))
    ratios = [
        steps.count(repeated(one, 200), anywhere=True) / steps.count(repeated(one, 50), anywhere=True)
        for one in inputs
    ]
    assert max(ratios) > 2 * ALLOWED


# --- Python and C -------------------------------------------------------------------------------------------


def quietly(parse: Callable[[Any], object]) -> Callable[[Any], None]:
    """Return the parser, which may refuse its input."""

    def call(given: Any) -> None:
        with suppress(GatewayError, BadCommand, FetchError, ValueError):
            parse(given)

    return call


def written(line: str) -> None:
    """Have a line made for the console and one of JSON, as an access log does and as a failure does."""
    for processors in (console_log.console_processors(), console_log.json_processors()):
        formatter = console_log._Formatter(foreign_pre_chain=[], processors=processors)
        record = logging.LogRecord("x", logging.INFO, "x", 1, '%s - "GET %s"', ("::1", line), None)
        formatter.format(record)
        error = ValueError(line)
        record = logging.LogRecord("x", logging.INFO, "x", 1, line, (), (ValueError, error, None))
        formatter.format(record)


def audited(text: str) -> None:
    audit.logger.setLevel(logging.INFO)
    audit.logger.propagate = False
    audit.record(Event.LOGIN, actor=text, source=text, why=text, sessions=[text])
    audit.logger.propagate = True
    audit.logger.setLevel(logging.NOTSET)


def members(size: int) -> str:
    return "{" + ",".join(f'"{number:06x}":1' for number in range(size // 11)) + "}"


def jwks(size: int) -> bytes:
    keys = [{"kty": "oct", "kid": str(number), "k": "A" * 20} for number in range(size // 50)]
    return json.dumps({"keys": keys}).encode()


def long_key(size: int) -> bytes:
    return json.dumps({"keys": [{"kty": "RSA", "kid": "a", "n": "v" * size, "e": "AQAB"}]}).encode()


def split_all(split: Callable[[bytes], Iterator[Any]]) -> Callable[[bytes], object]:
    return lambda body: deque(split(body), maxlen=0)


def repeat(text: str) -> Callable[[int], str]:
    return lambda size: text * (size // len(text))


def found(size: int) -> list[dict[str, Any]]:
    return [{"loc": ("body", "\x00" * size), "type": "extra_forbidden", "msg": "m"}] * 100


def ticket_in(query: bytes) -> str | None:
    return parameter(HTTPConnection({"type": "http", "query_string": query, "headers": []}), "ticket")


KIB = 1024
PARSERS: dict[str, tuple[int, Callable[[int], Any], Callable[[Any], object]]] = {
    # name: the smallest size, its worst input of a size, the parser
    "JSON, members": (4 * KIB, lambda size: members(size).encode(), read_json),
    "JSON, one member again": (16 * KIB, lambda n: b"{" + b'"a":1,' * (n // 6) + b'"a":1}', read_json),
    "JSON, brackets": (16 * KIB, lambda size: b"[" * size, read_json),
    "JSON, digits": (16 * KIB, lambda size: b"1" * size, read_json),
    "JSON, decimals": (16 * KIB, lambda size: b"1." + b"1" * size, read_json),
    "JSON, escapes": (16 * KIB, lambda size: b'"' + b"\\u0041" * (size // 6) + b'"', read_json),
    "JSON, pairs of surrogates": (16 * KIB, lambda size: b'"' + b"\\ud83d\\ude00" * (size // 12), read_json),
    "NDJSON, empty lines": (64 * KIB, lambda size: b"\n" * size, split_all(split_lines)),
    "NDJSON, one line": (64 * KIB, lambda size: b"1" * size, split_all(split_lines)),
    "NDJSON, short lines": (64 * KIB, lambda size: b"1\n" * (size // 2), split_all(split_lines)),
    "batch, numbers": (64 * KIB, lambda n: b"[" + b"1," * (n // 2) + b"1]", split_all(split_array)),
    "batch, digits": (16 * KIB, lambda size: b"[" + b"1" * size, split_all(split_array)),
    "batch, brackets": (64 * KIB, lambda size: b"[" * size, split_all(split_array)),
    "batch, open quotes": (64 * KIB, lambda size: b'["' + b"a" * size, split_all(split_array)),
    "batch, many before a long one": (
        16 * KIB,
        lambda n: b"[" + b"1," * (n // 80) + b'"' + b"a" * n + "🙂".encode() + b'"]',
        split_all(split_array),
    ),
    "batch, spaces": (64 * KIB, lambda size: b"[" + b" " * size, split_all(split_array)),
    "frame, brackets": (KIB, repeat("["), decode_command),
    "frame, digits": (KIB, lambda size: '{"seq":' + "1" * size, decode_command),
    "frame, members": (KIB, members, decode_command),
    "frame, ids": (
        KIB,
        lambda n: '{"type":"read","ids":[' + '"a",' * (n // 4) + "1]}",
        decode_command,
    ),
    "frame, ref": (KIB, lambda size: json.dumps({"ref": "é" * (size // 6)}), decode_command),
    "token, letters": (512, repeat("e"), jws.read),
    "token, dots": (512, repeat("e."), jws.read),
    "token, claims": (512, lambda size: f"{'e' * (size // 2)}.{'e' * (size // 2)}.e", jws.read),
    "key": (16 * KIB, lambda size: "ngk_" + "0" * size, services.parse_key),
    "key set, keys": (16 * KIB, jwks, lambda text: read_jwks(text, {"RS256"})),
    "key set, one long key": (16 * KIB, long_key, lambda text: read_jwks(text, {"RS256"})),
    "key set, brackets": (
        16 * KIB,
        lambda size: b'{"keys":' + b"[" * size,
        lambda t: read_jwks(t, {"RS256"}),
    ),
    "id": (16 * KIB, repeat("0"), is_id),
    "cursor": (16 * KIB, repeat("djE6"), inbox_api.before_cursor),
    "cursor, digits": (16 * KIB, lambda size: "djE6" + "MTEx" * (size // 4), inbox_api.before_cursor),
    "query": (2 * KIB, repeat("&%41"), lambda text: ticket_in(text.encode())),
    "If-None-Match": (4 * KIB, repeat("W/,"), lambda text: is_known(text, 'W/"a"')),
    "Last-Event-ID": (16 * KIB, repeat("1."), resume_after),
    "URL, colons": (4 * KIB, lambda size: "http://" + ":" * size, is_link),
    "URL, path": (4 * KIB, lambda size: "http://a" + "/" * size, is_link),
    "URL, brackets": (4 * KIB, lambda size: "http://[" + "[" * size, is_link),
    "origin": (4 * KIB, lambda size: "http://" + "a" * size + "/", read_origin),
    "origin, colons": (4 * KIB, lambda size: "http://[" + ":" * size, read_origin),
    "sub": (16 * KIB, repeat("é"), check_sub),
    "password": (16 * KIB, repeat("1a"), check_password),
    "hint": (480, lambda size: '["a",false,[' + "1," * (size // 2) + "1],[]]", hints.decode),
    "hint, brackets": (480, repeat("["), hints.decode),
    "log line, slashes": (64 * KIB, repeat("/"), console_log.redact),
    "log line, queries": (64 * KIB, repeat("/?"), console_log.redact),
    "log line, tokens": (64 * KIB, repeat("eyJ-"), console_log.redact),
    "log line, keys": (64 * KIB, repeat("ngk_"), console_log.redact),
    "log line, names": (64 * KIB, repeat("token=' "), console_log.redact),
    "log line, schemes": (64 * KIB, repeat("bearer "), console_log.redact),
    "log line, spaces": (64 * KIB, lambda size: "password" + " " * size, console_log.redact),
    "log line, quotes": (64 * KIB, lambda size: "token='" + '"' * size, console_log.redact),
    "log line, backslashes": (64 * KIB, lambda size: "token='" + "\\" * size, console_log.redact),
    "log, slashes": (64 * KIB, repeat("/"), written),
    "log, lines": (64 * KIB, repeat("\n"), written),
    "log, escapes": (64 * KIB, repeat("\x1b"), written),
    "audit log": (64 * KIB, repeat("\x1b"), audited),
    "terminal": (16 * KIB, repeat("\x1b"), escape),
    "terminal, cut": (16 * KIB, repeat("\x1b"), shown),
    "fields of an error": (16 * KIB, found, as_invalid),
}


def least(best: float, call: Callable[[Any], object], given: Any) -> float:
    """Return the least CPU time of a few calls, in seconds, and of what was measured before."""
    for _ in range(3):
        began = time.thread_time()
        call(given)
        best = min(best, time.thread_time() - began)
    return best


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_linear_time(name: str) -> None:
    size, make, parse = PARSERS[name]
    call, costs = quietly(parse), dict.fromkeys(TIMES, float("inf"))
    inputs = {times: make(size * times) for times in TIMES}
    for _ in range(ROUNDS):
        costs = {times: least(costs[times], call, given) for times, given in inputs.items()}
        if costs[16] <= ALLOWED**2 * costs[1]:
            return
    pytest.fail(f"{costs}")


# --- through a server ---------------------------------------------------------------------------------------


def get(path: bytes = b"/nowhere", **headers: bytes) -> bytes:
    """Return a request whose connection is closed afterwards."""
    lines = [b"%b: %b\r\n" % (name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n" % (path, b"".join(lines))


def socket_head(**headers: bytes) -> bytes:
    handshake = {"Sec_WebSocket_Version": b"13", "Sec_WebSocket_Key": b"MDEyMzQ1Njc4OWFiY2RlZg=="}
    return get(b"/v1/ws", **{"Upgrade": b"websocket", **handshake, **headers}).replace(b"close", b"Upgrade")


def form(body: bytes) -> bytes:
    head = b"POST /v1/auth/revoke HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %b\r\n"
    kind = b"application/x-www-form-urlencoded"
    return head % kind + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def chunked(body: bytes) -> bytes:
    return (
        b"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Authorization: Bearer %b\r\nContent-Type: application/json\r\n\r\n" % API_KEY.encode() + body
    )


def many(header: bytes, size: int) -> bytes:
    return get().removesuffix(b"\r\n") + header * (size // len(header)) + b"\r\n"


def authorised(path: bytes, **headers: bytes) -> bytes:
    return get(path, Authorization=b"Bearer " + API_KEY.encode(), **headers)


HEAD, BODY = 3500, 15_000
"""The smallest sizes: 16 times as much of a head is just below its limit, and so is that of a body."""

REQUESTS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "head, slashes": (HEAD, lambda size: get(b"/" * size)),
    "head, encoded slashes": (HEAD, lambda size: authorised(b"/v1/users/" + b"%2F" * (size // 3))),
    "head, encoded control characters": (HEAD, lambda size: get(b"/" + b"%1B" * (size // 3))),
    "head, parameters": (HEAD, lambda size: get(b"/v1/stream?" + b"a&" * (size // 2))),
    "head, an encoded query": (HEAD, lambda size: get(b"/v1/stream?a=" + b"%41" * (size // 3))),
    "head, names": (HEAD, lambda size: many(b"a: b\r\n", size)),
    "head, a long name": (HEAD, lambda size: get().removesuffix(b"\r\n") + b"a" * size + b": b\r\n\r\n"),
    "head, a long value": (HEAD, lambda size: get(x=b" a" * (size // 2))),
    "head, authorization": (
        HEAD,
        lambda size: get(b"/v1/inbox", Authorization=b"Bearer " + b"e." * (size // 2)),
    ),
    "head, an id": (HEAD, lambda size: get(X_Request_ID=b"a" * size)),
    "head, addresses": (HEAD, lambda size: get(X_Forwarded_For=b"1," * (size // 2))),
    "head, content type": (HEAD, lambda size: get(Content_Type=b"a;" * (size // 2))),
    "head, an origin": (HEAD, lambda size: socket_head(Origin=b"http://" + b":" * size)),
    "head, subprotocols": (HEAD, lambda size: socket_head(Sec_WebSocket_Protocol=b"a," * (size // 2) + b"a")),
    "head, extensions": (
        HEAD,
        lambda size: socket_head(Sec_WebSocket_Extensions=b"a;b," * (size // 4) + b"a"),
    ),
    "form, fields": (BODY, lambda size: form(b"a&" * (size // 2))),
    "form, equal signs": (BODY, lambda size: form(b"token=" + b"=" * size)),
    "form, escapes": (BODY, lambda size: form(b"token=" + b"%41" * (size // 3))),
    "form, a token": (BODY, lambda size: form(b"token=" + b"e." * (size // 2))),
    "chunks": (BODY, lambda size: chunked(b"1\r\n \r\n" * (size // 6) + b"0\r\n\r\n")),
    "trailers": (HEAD, lambda size: chunked(b"0\r\n" + b"a: b\r\n" * (size // 6) + b"\r\n")),
    "a long trailer": (HEAD, lambda size: chunked(b"0\r\na: " + b"b" * size + b"\r\n\r\n")),
}


async def answered(server: LocalServer, request: bytes) -> None:
    """Send a request, and read until the gateway closes."""
    reader, writer = await asyncio.open_connection(server.http.base_url.host, server.http.base_url.port)
    writer.write(request)
    with suppress(ConnectionResetError):
        while await reader.read(2**16) and b"Upgrade: websocket" not in request:
            pass
    writer.transport.abort()


async def cost(act: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU time that this thread takes for it, gateway and client, in seconds."""
    began = time.thread_time()
    await act()
    return time.thread_time() - began


async def check(act: Callable[[Any], Awaitable[object]], inputs: dict[int, Any]) -> None:
    """Have it done with each input, in turn, until the costs are within bounds."""
    costs = dict.fromkeys(TIMES, float("inf"))
    for _ in range(ROUNDS):
        for times, given in inputs.items():
            costs[times] = min(costs[times], await cost(lambda given=given: act(given)))  # type: ignore[misc]
        if costs[16] <= ALLOWED**2 * costs[1]:
            return
    pytest.fail(f"{costs}")


async def test_a_request_costs_linear_time(sqlite_url: str, subtests: pytest.Subtests) -> None:
    async with serving(settings_for(sqlite_url)) as server:
        for name, (size, make) in REQUESTS.items():
            with subtests.test(name):
                await check(
                    lambda request: answered(server, request), {times: make(size * times) for times in TIMES}
                )


async def test_a_frame_costs_linear_time(sqlite_url: str) -> None:
    async with serving(settings_for(sqlite_url, commands_per_second=10_000)) as server:
        ada = await server.user()
        headers = {"Authorization": f"Bearer {ada.token}"}
        async with open_socket(server.base, headers=headers) as socket:
            await socket.until("live")
            inputs = {times: json.dumps({"type": "a" * 1000 * times, "ref": "asked"}) for times in TIMES}

            async def ask(text: str) -> None:
                await socket.connection.send(text)
                assert (await socket.receive())["type"] == "error"

            await check(ask, inputs)
