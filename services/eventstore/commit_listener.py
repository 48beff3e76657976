"""Waits for commits: until PostgreSQL sends a notification, or at most a second, because one may get lost.

Behind a pooler there are no notifications, so it waits only 0.05 s.
"""

import asyncio
import contextlib
from typing import Any

import psycopg

from services.waiting import happens_within

from .database import AsyncConnection, connect_async

APPENDS = "order_events"
"""The channel on which PostgreSQL notifies of each commit that appended to the event store."""

_MAX_WAIT_SECONDS = 1.0
_MAX_WAIT_BEHIND_POOLER_SECONDS = 0.05


class CommitListener:
    """Notices that somebody appended to the event store."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._max_wait_seconds = _MAX_WAIT_BEHIND_POOLER_SECONDS if connection.pooled else _MAX_WAIT_SECONDS
        self._count = 0
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._listen())

    @classmethod
    async def listen(cls, database_url: str) -> "CommitListener":
        """Connects and listens. Raises psycopg.Error if the database does not answer."""
        connection = await connect_async(database_url, autocommit=True)
        if not connection.pooled:
            await connection.execute(f"LISTEN {APPENDS}")
        return cls(connection)

    async def _listen(self) -> None:
        async for _ in self._connection.notifies():
            self._count += 1
            self._changed.set()

    def seen(self) -> int:
        """Returns a mark for `after`. Take it before you read from the store."""
        self._changed.clear()
        return self._count

    async def after(self, mark: int) -> None:
        """Waits until somebody has appended since the mark, or until it is time to read anyway.

        Raises psycopg.Error if the connection is lost.
        """
        self.check()
        if self._count == mark:
            await happens_within(self._changed, self._max_wait_seconds)

    def check(self) -> None:
        """Raises psycopg.Error if the connection is lost."""
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Stops listening."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, psycopg.Error):
            await self._task
        await self._connection.close()
