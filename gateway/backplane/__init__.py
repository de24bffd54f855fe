"""The backplane: hints between processes, so that each learns at once of the others' commits. See `base`."""

import asyncio

from gateway.backplane.base import Backplane, Receiver
from gateway.backplane.memory import MemoryBackplane
from gateway.settings import Settings
from gateway.settings.choices import BackplaneKind

__all__ = ["Backplane", "Receiver", "open_backplane", "reach"]

REACH_SECONDS = 5.0
"""How long `gateway check` waits for a backplane."""


def open_backplane(settings: Settings) -> Backplane:
    """Return the backplane that the settings select. Its `run` connects."""
    if settings.backplane is BackplaneKind.REDIS:
        from gateway.backplane.redis import RedisBackplane

        assert settings.backplane_url is not None  # noqa: S101 - this URL selects Redis
        return RedisBackplane(settings.backplane_url.get_secret_value())
    if settings.backplane is BackplaneKind.POSTGRES:
        from gateway.backplane.postgres import PostgresBackplane

        return PostgresBackplane(settings.database_url)
    return MemoryBackplane()


async def reach(backplane: Backplane) -> str | None:
    """Send a message to this process itself, and return None, or the reason why it didn't come back.

    The reason contains no secret.
    """
    heard = asyncio.Event()
    receiver = Receiver(lambda _: None, lambda _: None, lambda _: heard.set())
    running = asyncio.create_task(backplane.run(receiver))
    try:
        async with asyncio.timeout(REACH_SECONDS):
            await heard.wait()
    except TimeoutError:
        return backplane.problem or "there was no answer in time"
    else:
        return None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
