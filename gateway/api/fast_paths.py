"""The fast paths of the API: its hot requests, answered without the application (decision 0021)."""

from collections.abc import Mapping

from gateway.api import inbox, notifications
from gateway.api.fast_inbox import FastInbox
from gateway.api.fast_post import FastPost
from gateway.api.state import Gateway
from gateway.transport.fast_path import FastPath


def fast_paths(state: Gateway) -> Mapping[tuple[str, bytes], FastPath]:
    """Return the fast paths by method and path, for a gateway without spans: the application makes those."""
    return {
        ("POST", notifications.PATH.encode()): FastPost(state),
        ("GET", inbox.PATH.encode()): FastInbox(state),
    }
