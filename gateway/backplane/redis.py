"""The backplane on Redis: pub/sub, on channels that each carry the hints for some of the users.

On a cluster these are shard channels, each on the server that owns its slot (SPUBLISH, SSUBSCRIBE). Elsewhere
they are ordinary channels. Redis drops a message without subscribers, which is fine for a hint.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from gateway.backplane.hints import PROBE, Hints, encode
from gateway.backplane.link import CHECK_INTERVAL, Link
from gateway.settings.redis_url import without_password

SHARDS = 4
"""Number of channels that the users are spread over.

More channels would spare a process with few sockets some hints. They would also cost another command and
another message for each group commit that concerns many users.
"""

TIMEOUT_SECONDS = 5.0
"""How long connecting may take, and each command."""

NodeAddress = tuple[str, int]
"""The host and port of a server."""


class RedisBackplane(Link):
    """A backplane on Redis. It listens to a common channel and to those of users with a socket here."""

    failures = (RedisError, RedisClusterException, OSError, TimeoutError)

    def __init__(self, url: str, *, check_interval: float = CHECK_INTERVAL) -> None:
        super().__init__(without_password(url), check_interval=check_interval)
        self._url = url
        self._options: dict[str, Any] = dict(parse_url(url)) | {
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 0),  # `Link` reconnects and checks for missed hints.
            "decode_responses": True,
            "encoding_errors": "replace",
        }
        # All databases of one Redis share their channels, so the name includes the database.
        self._prefix = f"gateway:{self._options.get('db', 0)}:"
        self._common = f"{self._prefix}all"
        self._shards = {f"{self._prefix}{shard}": shard for shard in range(SHARDS)}
        self._channels = list(self._shards)
        self._users: defaultdict[int, set[int]] = defaultdict(set)
        self._changed = asyncio.Event()
        self._subscribed: set[int] = set()
        self._leaving: Counter[str] = Counter()
        self._nodes: dict[str, _Node] = {}

    # --- the subscriptions ----------------------------------------------------------------------------------

    def follow(self, user_id: int) -> None:
        """Subscribe to the user's channel soon. The user's log is then checked for hints missed meanwhile."""
        users = self._users[user_id % SHARDS]
        users.add(user_id)
        if len(users) == 1:
            self._changed.set()

    def forget(self, user_id: int) -> None:
        """Unsubscribe from the user's channel, unless other users with a socket here need it."""
        shard = user_id % SHARDS
        self._users[shard].discard(user_id)
        if not self._users[shard]:
            del self._users[shard]
            self._changed.set()

    async def _follow_all(self) -> None:
        while True:
            await self._changed.wait()
            # Cleared before the users are read, so that a change while a command is sent sets it again.
            self._changed.clear()
            wanted = set(self._users)
            await self._subscribe(wanted - self._subscribed)
            for shard in self._subscribed - wanted:
                channel = self._channels[shard]
                self._subscribed.remove(shard)
                self._leaving[channel] += 1
                await self._nodes[channel].unsubscribe(channel)

    async def _subscribe(self, shards: Iterable[int]) -> None:
        for shard in shards:
            channel = self._channels[shard]
            self._subscribed.add(shard)
            await self._nodes[channel].subscribe(channel)

    # --- the connection -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        self._nodes, self._subscribed = {}, set()
        self._leaving.clear()
        async with AsyncExitStack() as stack:
            await self._open_nodes(stack)
            await self._nodes[self._common].subscribe(self._common)
            await self._subscribe(set(self._users))
            # The probes come last: a message through them shows that the other channels are subscribed, too.
            for node in set(self._nodes.values()):
                await node.subscribe(node.probe)
            yield

    async def _open_nodes(self, stack: AsyncExitStack) -> None:
        """Open the server of each channel: the only server, or those of a cluster."""
        probe = f"{self._prefix}probe:{self._origin}"
        channels = [self._common, *self._channels]
        async with Redis.from_pool(ConnectionPool(**self._options)) as seed:
            clustered = bool((await seed.info("cluster"))["cluster_enabled"])
            if clustered:
                places, probes = await self._places(channels, probe)
            else:
                here = (self._options.get("host", "localhost"), self._options.get("port", 6379))
                places, probes = dict.fromkeys(channels, here), {here: probe}
        nodes: dict[NodeAddress, _Node] = {}
        for (host, port), name in probes.items():
            node = _Node(self._options | {"host": host, "port": port}, name, sharded=clustered)
            stack.push_async_callback(node.close)
            nodes[host, port] = node
        self._nodes = {channel: nodes[place] for channel, place in places.items()}

    async def _places(
        self, channels: Sequence[str], probe: str
    ) -> tuple[dict[str, NodeAddress], dict[NodeAddress, str]]:
        """Return the server of each channel in a cluster, and for each server a probe name in its slots."""
        options = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        async with RedisCluster.from_url(self._url, **options) as cluster:

            def place(channel: str) -> NodeAddress:
                node = cluster.get_node_from_key(channel)
                if node is None:
                    raise ConnectionError(f"the channel {channel} is on no server of the cluster")
                return node.host, int(node.port)

            places = {channel: place(channel) for channel in channels}
            names = (f"{probe}:{number}" for number in count())
            probes: dict[NodeAddress, str] = {}
            while probes.keys() != set(places.values()):
                name = next(names)
                probes.setdefault(place(name), name)
        return places, {place: probes[place] for place in places.values()}

    async def _listen(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_all())
            for node in set(self._nodes.values()):
                tasks.create_task(self._read(node))

    async def _read(self, node: "_Node") -> None:
        while True:
            kind, channel, data = await node.read()
            if kind in {"subscribe", "ssubscribe"}:
                self._now_subscribed(channel)
            elif kind in {"unsubscribe", "sunsubscribe"}:
                self._now_unsubscribed(channel)
            elif self._heard(data) and channel == node.probe:
                node.echo.set()

    def _now_subscribed(self, channel: str) -> None:
        """Request a check of a channel's users: they may have attached before the subscription began."""
        users = self._users.get(self._shards.get(channel, -1))
        # Before the first loopback message arrives, a check of all users is still to come.
        if users and self.listening:
            self._receiver.on_resumed(users.copy())

    def _now_unsubscribed(self, channel: str) -> None:
        """Raise ConnectionError if the cluster ended the subscription: the channel's slot has moved."""
        if not self._leaving[channel]:
            raise ConnectionError(f"the channel {channel} has moved")
        self._leaving[channel] -= 1

    async def _hear_oneself(self) -> None:
        (message,) = encode(self._origin, PROBE)
        nodes = set(self._nodes.values())
        for node in nodes:
            node.echo.clear()
            await node.publish([(node.probe, message)])
        for node in nodes:
            await node.echo.wait()

    async def _send(self, hints: Hints) -> None:
        by_channel: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for user_id, seq in hints.seqs.items():
            by_channel[self._channels[user_id % SHARDS]][user_id] = seq
        hints_by_channel = {channel: Hints(seqs) for channel, seqs in by_channel.items()}
        if hints.ended or hints.everything:
            hints_by_channel[self._common] = Hints({}, hints.ended, hints.everything)
        by_node: defaultdict[_Node, list[tuple[str, str]]] = defaultdict(list)
        for channel, part in hints_by_channel.items():
            messages = encode(self._origin, part)
            by_node[self._nodes[channel]] += [(channel, message) for message in messages]
        for node, messages_of_node in by_node.items():
            await node.publish(messages_of_node)


class _Node:
    """One Redis server: a connection for listening and one for publishing."""

    def __init__(self, options: dict[str, Any], probe: str, *, sharded: bool) -> None:
        self._redis = Redis.from_pool(ConnectionPool(**options))
        self._pubsub = self._redis.pubsub()
        self._publisher = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._turn = asyncio.Lock()
        self._sharded = sharded
        self.probe = probe
        self.echo = asyncio.Event()

    async def subscribe(self, channel: str) -> None:
        """Request a subscription. `read` returns its confirmation."""
        await (self._pubsub.ssubscribe if self._sharded else self._pubsub.subscribe)(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Request the end of a subscription. `read` returns its confirmation."""
        await (self._pubsub.sunsubscribe if self._sharded else self._pubsub.unsubscribe)(channel)

    async def publish(self, messages: Sequence[tuple[str, str]]) -> None:
        """Publish pairs of a channel and a message in one write.

        It uses a bare connection, because the overhead of the client's pipeline is twice the cost of its
        commands.
        """
        command = "SPUBLISH" if self._sharded else "PUBLISH"
        packed = self._publisher.pack_commands([(command, *message) for message in messages])
        # A connection handles one exchange at a time.
        async with self._turn:
            await self._publisher.send_packed_command(packed)
            for _ in messages:
                await self._publisher.read_response()

    async def read(self) -> tuple[str, str, str]:
        """Wait for the next message, and return its kind, its channel and its data."""
        while (message := await self._pubsub.get_message(timeout=None)) is None:
            pass
        return message["type"], message["channel"], message["data"]

    async def close(self) -> None:
        """Close every connection without waiting for a server that doesn't answer."""
        await self._publisher.disconnect(nowait=True)
        with suppress(RedisError, OSError):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        with suppress(RedisError, OSError):
            await self._redis.aclose()
