"""The messages to a client, built from plain values.

docs/protocol.md defines every message. A message is encoded once for all sockets and streams of its user.
"""

from collections.abc import Sequence

from gateway.protocol.encoding import dumps
from gateway.protocol.items import Counts
from gateway.protocol.times import encode_time
from gateway.protocol.wire import Message


def _counted(counts: Counts) -> str:
    return f'"unread":{counts.unread},"unseen":{counts.unseen}'


def hello(sub: str, epoch: str, counts: Counts, heartbeat: float, expires_at: int) -> Message:
    """Return the first message on a socket. `heartbeat` is in seconds, `expires_at` in seconds since 1970."""
    members = (
        f'"sub":{dumps(sub)},"epoch":{dumps(epoch)},"seq":{counts.seq},{_counted(counts)},'
        f'"heartbeat":{heartbeat:g},"expires_at":{encode_time(expires_at * 1000)}'
    )
    return Message("hello", members, epoch=epoch)


def notification(item: str, seq: int, counts: Counts, *, alert: bool = True) -> Message:
    """Return the message with one encoded item that is new to the client.

    `alert` is whether the client may show a toast or play a sound: the user is not in quiet hours.
    """
    members = f'"seq":{seq},"notification":{item},{_counted(counts)},"alert":{"true" if alert else "false"}'
    return Message("notification", members, seq)


def changed(items: Sequence[str], seq: int, counts: Counts) -> Message:
    """Return the message with the encoded items of the change `seq`, each in its latest state."""
    return Message("changed", f'"seq":{seq},"items":[{",".join(items)}],{_counted(counts)}', seq)


def read_up_to(up_to: int, seq: int, counts: Counts) -> Message:
    """Return the message that all items up to `up_to` were marked read."""
    return Message("read", f'"seq":{seq},"up_to":{up_to},{_counted(counts)}', seq)


def seen(counts: Counts) -> Message:
    """Return the message that the seen mark advanced. It has no `seq`, because it changes no item."""
    return Message("seen", f'"up_to":{counts.seen},"unseen":{counts.unseen}')


def preferences(document: str) -> Message:
    """Return the message that the user's preferences have changed. It has no `seq`: no item changed."""
    return Message("preferences", f'"preferences":{document}')


def reset(epoch: str, counts: Counts) -> Message:
    """Return the message that the client must reload the inbox and continue from `seq`."""
    oldest = counts.trimmed + 1 if counts.seq else 0
    where = f'"epoch":{dumps(epoch)},"seq":{counts.seq},"oldest_seq":{oldest}'
    return Message("reset", f"{where},{_counted(counts)}", counts.seq, epoch)


def live(counts: Counts) -> Message:
    """Return the message that the replay is complete."""
    return Message("live", f'"seq":{counts.seq},{_counted(counts)}', counts.seq)


def heartbeat(counts: Counts) -> Message:
    """Return the message that shows that the socket works, with the head of the log."""
    return Message("heartbeat", f'"seq":{counts.seq},{_counted(counts)}')


def token_expiring(expires_at: int) -> Message:
    """Return the message that the token expires soon, at `expires_at` seconds since 1970."""
    return Message("token_expiring", f'"expires_at":{encode_time(expires_at * 1000)}')


def ok(ref: str) -> Message:
    """Return the message that the command with this `ref` was executed and its effect committed."""
    return Message("ok", f'"ref":{dumps(ref)}')


def error(code: str, detail: str, ref: str | None = None) -> Message:
    """Return the message that a command was refused. The socket stays open."""
    return Message("error", f'"ref":{dumps(ref)},"code":"{code}","detail":{dumps(detail)}')


def close(code: int, reason: str) -> Message:
    """Return the last message of a stream, with the code and reason that a socket has in its close frame."""
    return Message("close", f'"code":{code},"reason":{dumps(reason)}')
