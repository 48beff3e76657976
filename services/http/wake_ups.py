"""Wakes requests that wait for a change of a read model or for an outcome, with one listener for each database."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import psycopg

from projections.framework.projector import CHANNEL
from services.eventstore.commit_listener import APPENDS
from services.eventstore.database import ANSWER_WITHIN_SECONDS, AsyncConnection, connect_async
from services.waiting import happens_within

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_LOOK_OFTEN_SECONDS = 0.05  # through a pooler, which passes no notifications on


class WakeUps:
    """Wakes waiting requests when a read model has changed, and every second, because notifications may be lost."""

    def __init__(self, database_urls: Sequence[str]) -> None:
        self._urls = database_urls
        self._changed = asyncio.Event()
        self.appended = asyncio.Event()
        """Set when something was appended to an event store. Whoever waits for it clears it before reading."""

    async def run(self) -> None:
        """Listens for ever, and connects again when a connection is lost."""
        await asyncio.gather(*map(self._listen, self._urls))

    async def _listen(self, url: str) -> None:
        while True:
            try:
                async with await connect_async(url, autocommit=True) as connection:
                    if connection.pooled:
                        await self._look(connection)
                    await connection.execute(f"LISTEN {CHANNEL}; LISTEN {APPENDS}".encode())
                    async for notification in connection.notifies():
                        if notification.channel == APPENDS:
                            self.appended.set()
                        else:
                            self._set()
            except psycopg.Error as error:
                log.warning("no notifications from PostgreSQL, trying again: %s", error)
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def _look(self, connection: AsyncConnection[Any]) -> None:
        connection.answer_within = ANSWER_WITHIN_SECONDS
        known = None
        while True:
            cursor = await connection.execute("SELECT application_name, notification_id FROM projection_tracking")
            if (positions := dict(await cursor.fetchall())) != known:
                self._set()
                known = positions
            self.appended.set()
            await asyncio.sleep(_LOOK_OFTEN_SECONDS)

    def _set(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def next(self, seconds: float = _LOOK_EVERY_SECONDS, *, rest_seconds: float = 0.0) -> None:
        """Waits `rest_seconds`, then for a change since the call, at most `seconds`."""
        changed = self._changed
        await asyncio.sleep(rest_seconds)
        await happens_within(changed, seconds)
