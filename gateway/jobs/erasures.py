"""Unfinished erasures: users whose erasure was interrupted by a stop, removed at the next start."""

import structlog

from gateway.auth import erasure
from gateway.database.database import Database
from gateway.errors import Unavailable

logger = structlog.get_logger()


async def finish_erasures(database: Database) -> None:
    """Remove the remaining data of erased users. If the database is unavailable, the next start does it."""
    try:
        for user_id in await database.read(erasure.released_users):
            while await database.write(erasure.erase_some, user_id):
                pass
    except Unavailable:
        logger.warning("erased users could not be removed")
