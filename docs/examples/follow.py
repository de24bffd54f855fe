"""Prints the title of each new notification of a user, once, also after lost connections.

Needs GATEWAY_URL, and in GATEWAY_TOKEN a user's access token. See "Writing a client" in docs/protocol.md.
"""

import asyncio
import json
import os
import random
import re

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException


def setting(name: str, pattern: str, example: str) -> str:
    """Return an environment variable. If it is missing or malformed, end the program without showing it."""
    value = os.environ.get(name, "").strip()
    if not re.fullmatch(pattern, value):
        raise SystemExit(f"{name}: set it to {example}")
    return value


URL = setting("GATEWAY_URL", r"https?://[\w\[][!-~]*", "a URL such as http://127.0.0.1:8000").rstrip("/")
TOKEN = setting("GATEWAY_TOKEN", r"[!-~]+", "a user's access token: gateway token ada")
FINAL = {1000, 1002, 1003, 1007, 1009, 4001, 4003, 4009}
"""The close codes after which a new connection does not help. For 4001, get a new token first."""


async def follow() -> None:
    """Print titles until the gateway closes the socket for good."""
    epoch, position, longest_pause = "", -1, 1.0
    while True:
        query = f"?since={position}&epoch={epoch}" if position >= 0 else ""
        address = f"ws{URL.removeprefix('http')}/v1/ws{query}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            async with connect(address, additional_headers=headers, max_size=None) as socket:
                while True:
                    message = json.loads(await socket.recv())
                    longest_pause = 1.0
                    epoch, seq = message.get("epoch", epoch), message.get("seq", -1)
                    if message["type"] == "reset":
                        position = seq  # A client with items reads the inbox again here.
                    elif message["type"] in {"notification", "changed", "read", "live"} and seq > position:
                        position = seq
                        if message["type"] == "notification":
                            print(message["notification"]["title"], flush=True)
                        await socket.send(json.dumps({"type": "ack", "seq": position}))
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in FINAL:
                raise SystemExit(f"closed with {error.rcvd.code} {error.rcvd.reason}") from None
        except (OSError, WebSocketException):
            pass  # It can't be reached, or refuses the handshake: try again later.
        await asyncio.sleep(random.uniform(0, longest_pause))
        longest_pause = min(2 * longest_pause, 30.0)


if __name__ == "__main__":
    asyncio.run(follow())
