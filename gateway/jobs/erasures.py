"""Erasures that a stop has cut short, finished at the next start."""

import structlog

from gateway.auth import erasure
from gateway.database.database import Database
from gateway.errors import Unavailable

logger = structlog.get_logger()


async def finish_erasures(database: Database) -> None:
    """Remove the rest of the users who were erased. Where the database cannot, the next start does."""
    try:
        for user_id in await database.read(erasure.released_users):
            while await database.write(erasure.erase_some, user_id):
                pass
    except Unavailable:
        logger.warning("erased users could not be removed")
