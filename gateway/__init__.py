"""A self-hosted, authenticated notification gateway.

Each user has one durable log; a socket is a cursor over it. `docs/architecture.md` is the map.
"""

from importlib.metadata import version

__version__ = version("notification-gateway")
