"""The same job in the style of tutorials, for comparison: not a straw man, and nothing clever.

FastAPI, `Depends`, a JWT decoded in Python, the async ORM with one commit for each request, a dict of lists
of sockets, `send_json`. It does less than the gateway: no counters, no replay, no order across
requests, nothing for a socket that was away. Its database is as durable (WAL, `synchronous=FULL`) and its
server as quiet (no access log) as the gateway's.

Run by `benchmarks.subjects`, which sets `TUTORIAL_DATABASE_URL` and `TUTORIAL_SECRET`.
"""

import os
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import JSON, String, event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SECRET = os.environ["TUTORIAL_SECRET"]
DATABASE_URL = os.environ["TUTORIAL_DATABASE_URL"]

engine = create_async_engine(DATABASE_URL)
new_session = async_sessionmaker(engine, expire_on_commit=False)

if engine.dialect.name == "sqlite":

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        """Make SQLite as durable as the gateway makes it, and patient with its many writers."""
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 30000")


class Base(DeclarativeBase):
    """The tables."""


class Notification(Base):
    """One notification of one user."""

    __tablename__ = "notifications"

    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(String(255), index=True)
    title: Mapped[str]
    body: Mapped[str | None]
    category: Mapped[str]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[str]
    read_at: Mapped[str | None]


class NotificationIn(BaseModel):
    """What is posted."""

    to: str
    title: str = Field(min_length=1, max_length=200)
    body: str | None = Field(None, max_length=4000)
    category: str = "default"
    data: dict[str, Any] | None = None


class NotificationOut(BaseModel):
    """What is answered, and sent to the sockets."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    body: str | None
    category: str
    data: dict[str, Any] | None
    created_at: str
    read_at: str | None


class ConnectionManager:
    """The sockets of each user."""

    def __init__(self) -> None:
        self.sockets: dict[str, list[WebSocket]] = defaultdict(list)

    async def connect(self, user: str, websocket: WebSocket) -> None:
        """Accept the socket and remember it."""
        await websocket.accept()
        self.sockets[user].append(websocket)

    def disconnect(self, user: str, websocket: WebSocket) -> None:
        """Forget the socket."""
        self.sockets[user].remove(websocket)

    async def send_to_user(self, user: str, message: Any) -> None:
        """Send a message to every socket of the user."""
        for websocket in list(self.sockets[user]):
            await websocket.send_json(message)


manager = ConnectionManager()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Make the tables."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def get_session() -> AsyncIterator[AsyncSession]:
    """One session for each request."""
    async with new_session() as session:
        yield session


async def get_current_user(authorization: Annotated[str, Header()]) -> str:
    """Decode the bearer token; 401 when it is not ours."""
    try:
        claims = jwt.decode(
            authorization.removeprefix("Bearer "), SECRET, algorithms=["HS256"], audience="tutorial"
        )
    except jwt.PyJWTError:
        raise HTTPException(401, "Could not validate credentials") from None
    return str(claims["sub"])


CurrentUser = Annotated[str, Depends(get_current_user)]
Session = Annotated[AsyncSession, Depends(get_session)]


@app.post("/notifications", status_code=201)
async def create_notification(
    posted: NotificationIn, _sender: CurrentUser, session: Session
) -> NotificationOut:
    """Store a notification and send it to the sockets of its user."""
    row = Notification(
        user=posted.to,
        title=posted.title,
        body=posted.body,
        category=posted.category,
        data=posted.data,
        created_at=datetime.now(UTC).isoformat(),
    )
    session.add(row)
    await session.commit()
    await session.refresh(row)
    notification = NotificationOut.model_validate(row)
    message = {"type": "notification", "notification": notification.model_dump(mode="json")}
    await manager.send_to_user(posted.to, message)
    return notification


@app.websocket("/ws")
async def listen(websocket: WebSocket, user: CurrentUser) -> None:
    """Hold the socket of a user until it goes."""
    await manager.connect(user, websocket)
    try:
        await websocket.send_json({"type": "live"})
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(user, websocket)
