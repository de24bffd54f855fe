"""The backplane: how a process learns at once of what another has committed. See `base` for what it is."""

import asyncio

from gateway.backplane.base import Backplane, Receiver
from gateway.backplane.memory import MemoryBackplane
from gateway.settings import BackplaneKind, Settings

__all__ = ["Backplane", "Receiver", "open_backplane", "reach"]

REACH = 5.0
"""How long `gateway check` waits for a backplane, in seconds."""


def open_backplane(settings: Settings) -> Backplane:
    """Return the backplane that the settings choose. It connects when it is run."""
    if settings.backplane is BackplaneKind.REDIS:
        from gateway.backplane.redis import RedisBackplane

        assert settings.backplane_url is not None  # noqa: S101 - it is what has chosen Redis
        return RedisBackplane(settings.backplane_url.get_secret_value())
    if settings.backplane is BackplaneKind.POSTGRES:
        from gateway.backplane.postgres import PostgresBackplane

        return PostgresBackplane(settings.database_url)
    return MemoryBackplane()


async def reach(backplane: Backplane) -> str | None:
    """Return why no message to oneself comes back through it, without a secret; None where it does."""
    heard = asyncio.Event()
    receiver = Receiver(lambda _: None, lambda _: None, lambda _: heard.set())
    running = asyncio.create_task(backplane.run(receiver))
    try:
        async with asyncio.timeout(REACH):
            await heard.wait()
    except TimeoutError:
        return backplane.problem or "there was no answer in time"
    else:
        return None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
