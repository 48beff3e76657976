"""Wakes whoever waits for something to happen, once for all connections of the process."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import psycopg

from projections.framework.projector import CHANNEL
from services.eventstore.database import ANSWER_WITHIN_SECONDS, AsyncConnection, connect_async

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_LOOK_OFTEN_SECONDS = 0.05  # behind a pooler, where there are no notifications


class Pulse:
    """Beats when a read model moved on, and from time to time, since a notification may be lost."""

    def __init__(self, database_urls: Sequence[str]) -> None:
        self._urls = database_urls
        self._beat = asyncio.Event()

    async def run(self) -> None:
        """For ever; connects again when a database was away."""
        await asyncio.gather(*map(self._listen, self._urls))

    async def _listen(self, url: str) -> None:
        while True:
            try:
                async with await connect_async(url, autocommit=True) as connection:
                    if connection.pooled:
                        await self._look(connection)
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    async for _ in connection.notifies():
                        self._set()
            except psycopg.Error as error:
                log.warning("no notifications from PostgreSQL, trying again: %s", error)
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def _look(self, connection: AsyncConnection[Any]) -> None:
        connection.answer_within = ANSWER_WITHIN_SECONDS
        known = None
        while True:
            cursor = await connection.execute("SELECT application_name, notification_id FROM projection_tracking")
            if (found := dict(await cursor.fetchall())) != known:
                self._set()
                known = found
            await asyncio.sleep(_LOOK_OFTEN_SECONDS)

    def _set(self) -> None:
        self._beat.set()
        self._beat = asyncio.Event()

    async def next(self, seconds: float = _LOOK_EVERY_SECONDS, *, rest_seconds: float = 0.0) -> None:
        """Returns at the next beat, or after so many seconds; not before it has rested."""
        beat = self._beat
        await asyncio.sleep(rest_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(beat.wait(), seconds)
