"""Waiting for commits: PostgreSQL's notifications, and a look from time to time, since one may be lost.

Behind a pooler there are no notifications, and the looks follow one another closely.
"""

import asyncio
import contextlib
from typing import Any

import psycopg

from .database import AsyncConnection, connect_async

_LOOK_EVERY_SECONDS = 1.0
_LOOK_OFTEN_SECONDS = 0.05


class CommitListener:
    """Notices that something was appended to the event store or the outcomes."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._look_every = _LOOK_OFTEN_SECONDS if connection.pooled else _LOOK_EVERY_SECONDS
        self._count = 0
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._listen())

    @classmethod
    async def listen(cls, database_url: str) -> "CommitListener":
        """Raises psycopg.Error where the database does not answer."""
        connection = await connect_async(database_url, autocommit=True)
        if not connection.pooled:
            await connection.execute("LISTEN order_events")
        return cls(connection)

    async def _listen(self) -> None:
        async for _ in self._connection.notifies():
            self._count += 1
            self._changed.set()

    def seen(self) -> int:
        """A mark to take before looking, for `after`."""
        self._changed.clear()
        return self._count

    async def after(self, mark: int) -> None:
        """Returns when something was appended since the mark, or it is time to look anyway.

        Raises psycopg.Error when the connection is lost.
        """
        self.check()
        if self._count == mark:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._look_every)

    def check(self) -> None:
        """Raises psycopg.Error when the connection is lost."""
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Stops listening."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, psycopg.Error):
            await self._task
        await self._connection.close()
