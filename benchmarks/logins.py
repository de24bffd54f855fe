"""Sign-ins: what a crowd of them does to the sockets that are open meanwhile."""

import asyncio
import json
import time
from collections.abc import Sequence
from urllib.parse import urlencode

from benchmarks.client import HttpConnection, Socket, UnexpectedAnswer, open_socket, request
from benchmarks.report import Figures
from benchmarks.rounds import Load, Plan, latency
from benchmarks.subjects import LOAD_LIMIT, Gateway, each, gateway

AT_ONCE = 32
LOGINS = 100
SOCKETS = 500
PASSWORD = "the password of a benchmark"
PING = b'{"type":"ping","ref":"x"}'
PINGS_A_SECOND = 500
WATCH = 4.0
"""How long the sockets are pinged in each round, in seconds; the sign-ins begin half a second later."""

_REFUSED = (400, 429)


async def _ping(sockets: Sequence[Socket], seconds: float) -> list[float]:
    """Ping the sockets in turn, at one rate whatever the server does; return the times of the answers.

    A ping that could not be sent when it was due counts from when it was due.
    """
    times: list[float] = []
    due_of: dict[int, float] = {}
    answered = asyncio.Event()

    def hear(number: int) -> None:
        if number in due_of:
            times.append(time.perf_counter() - due_of.pop(number))
            answered.set()

    for number, socket in enumerate(sockets):
        socket.on_text = lambda text, number=number: (
            hear(number) if text.startswith(b'{"type":"ok"') else None
        )
    start = time.perf_counter()
    for turn in range(round(seconds * PINGS_A_SECOND)):
        due = start + turn / PINGS_A_SECOND
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        number = turn % len(sockets)
        while number in due_of:  # its last ping is not answered yet
            answered.clear()
            await answered.wait()
        due_of[number] = due
        sockets[number].send(PING)
    while due_of:
        answered.clear()
        await answered.wait()
    return times


def _form(number: int, password: str) -> bytes:
    """Return the sign-in of one user, each from an address of its own: few may wait at one."""
    form = {"grant_type": "password", "username": f"login-{number:03}", "password": password}
    body = urlencode(form).encode()
    kind = b"content-type: application/x-www-form-urlencoded\r\n"
    address = b"x-forwarded-for: 192.0.2.%d\r\n" % number
    head = b"POST /v1/auth/token HTTP/1.1\r\nhost: benchmark\r\n" + kind + address
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


async def _sign_in(connections: Sequence[HttpConnection], *, right: bool) -> float:
    """Sign all users in at once; return how long it took, in seconds. Wrong ones must be refused."""
    refused = 0

    async def sign_in(number: int) -> None:
        nonlocal refused
        try:
            await connections[number].send(_form(number, PASSWORD if right else PASSWORD + "?"))
        except UnexpectedAnswer as answer:
            if right or not any(f"HTTP/1.1 {status}" in str(answer) for status in _REFUSED):
                raise
            refused += 1

    began = time.perf_counter()
    async with asyncio.timeout(LOAD_LIMIT), asyncio.TaskGroup() as group:
        for number in range(len(connections)):
            group.create_task(sign_in(number))
    if not right and refused != len(connections):
        raise UnexpectedAnswer("a wrong password was taken")
    return time.perf_counter() - began


async def _add_users(subject: Gateway, count: int) -> None:
    """Make so many users who have a password."""

    async def add(connection: HttpConnection, number: int) -> None:
        body = json.dumps({"sub": f"login-{number:03}", "password": PASSWORD}).encode()
        await connection.send(request("POST", "/v1/users", subject.bearer, body))

    async with subject.connections(2) as connections:
        await each(range(count), connections, add)


async def login_flood(plan: Plan) -> None:
    """Answers to pings of 500 sockets: in peace, and while 100 users sign in at once."""
    logins, many = plan.size(LOGINS), plan.size(SOCKETS)
    async with gateway(plan.database, forwarded_allow_ips="127.0.0.1") as subject:
        await _add_users(subject, logins)
        tokens = await subject.tokens([f"ping-{number:04}" for number in range(many)])
        sockets: list[Socket] = []

        async def hold(_worker: int, token: str) -> None:
            sockets.append(await open_socket(subject.server.port, subject.sockets, token))

        await each(tokens, range(AT_ONCE), hold)

        async def peace() -> Figures:
            return latency(await _ping(sockets, WATCH))

        async def flood(*, right: bool) -> Figures:
            async with subject.connections(logins) as connections, asyncio.TaskGroup() as group:
                pinging = group.create_task(_ping(sockets, WATCH))
                await asyncio.sleep(0.5)
                took = await _sign_in(connections, right=right)
            return latency(pinging.result()) | {
                "slowest, ms": max(pinging.result()) * 1e3,
                "sign-ins took, s": took,
            }

        loads = {
            "in peace": Load(subject.server, peace),
            f"{logins} sign-ins": Load(subject.server, lambda: flood(right=True)),
            f"{logins} wrong passwords": Load(subject.server, lambda: flood(right=False)),
        }
        figures = await plan.in_turn("login-flood", loads)
        for socket in sockets:
            await socket.close()
    title = f"Pings: {PINGS_A_SECOND} a second over {many} sockets, while {logins} users sign in at once"
    plan.report.add(title, figures, ratios=False)
