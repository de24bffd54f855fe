"""The floor of the bulk benchmark writes the rows that the gateway writes."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Table, select

from benchmarks import floor
from benchmarks.audience import content
from gateway.database.database import open_database
from gateway.database.models import items, notifications, users
from gateway.protocol.encoding import dumps
from gateway.protocol.items import Content
from gateway.store.arrivals import Post
from gateway.store.transaction import Submission, commit
from tests.support.databases import prepare, settings_for

RECIPIENTS, COUNT = 5, 2

UNIQUE = {"uuid", "created_at", "sub", "epoch"}
"""The columns that differ between two posts of the same content."""


def rows_of(connection: Connection, table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table, without the columns that are unique to a post or user."""
    return [
        {name: value for name, value in row.items() if name not in UNIQUE}
        for row in connection.execute(select(table)).mappings()
    ]


def bulk_of(kind: str, number: int) -> Submission:
    """Return one post to all recipients, or one to each of them."""
    subs = tuple(f"user-{number}" for number in range(RECIPIENTS))
    recipients = [subs] if kind == "post" else [(sub,) for sub in subs]
    posts = []
    for index, to in enumerate(recipients):
        one: Any = content(index)
        uuid = f"00000000-0000-7000-8000-{number * RECIPIENTS + index:012d}"
        texts = (one["title"], one["body"], one["category"], "normal", None, dumps(one["data"]))
        posts.append(Post(Content(uuid, *texts, 0), 1, to))
    return Submission(tuple(posts), "{}")


@pytest.mark.parametrize("kind", ["post", "batch"])
async def test_the_bulk_floor_writes_the_same_rows_as_the_gateway(
    kind: str, sqlite_url: str, tmp_path: Path
) -> None:
    bare_url = f"sqlite:///{tmp_path}/bare.db"
    await prepare(bare_url)
    floor.measure(bare_url, kind, COUNT, RECIPIENTS)
    async with (
        open_database(settings_for(sqlite_url)) as database,
        open_database(settings_for(bare_url)) as bare,
    ):
        for number in range(COUNT):
            await database.write(commit, [bulk_of(kind, number)], 0, True, ())
        for table in (notifications, items, users):
            assert await bare.read(rows_of, table) == await database.read(rows_of, table)
