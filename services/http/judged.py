"""Finds outcomes in the event store as soon as they are committed, sooner than the relay publishes them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from services.eventstore.outcomes import PlacedOutcome, first_outcomes
from services.waiting import happens_within

from .databases import Databases
from .problems import Problem
from .wake_ups import WakeUps

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0

Command = tuple[str, str]
"""Order id and command id."""


class JudgedCommands:
    """The outcomes that requests wait for. After each commit they are looked up, in one query for each shard."""

    def __init__(self, databases: Databases, wake_ups: WakeUps) -> None:
        self._databases = databases
        self._wake_ups = wake_ups
        self._awaited: defaultdict[Command, list[asyncio.Future[PlacedOutcome]]] = defaultdict(list)
        self._anybody = asyncio.Event()

    @contextmanager
    def awaited(self, order_id: str, command_id: str) -> Iterator[asyncio.Future[PlacedOutcome]]:
        """Yields the future outcome of the first use of a command id, which may be an earlier record's.

        It may never come, for example because the command's record became a dead letter, or while the database is away.
        """
        command, future = (order_id, command_id), asyncio.get_running_loop().create_future()
        self._awaited[command].append(future)
        self._anybody.set()
        try:
            yield future
        finally:
            future.cancel()
            self._awaited[command].remove(future)
            if not self._awaited[command]:
                del self._awaited[command]

    async def run(self) -> None:
        """Looks for outcomes for ever, after each commit and every second, while somebody waits."""
        appended = self._wake_ups.appended
        while True:
            if not self._awaited:
                self._anybody.clear()
                await self._anybody.wait()
                appended.clear()  # an append before now has none of the commands that are awaited from now on
            await happens_within(appended, _LOOK_EVERY_SECONDS)  # a notification may have got lost
            appended.clear()
            if self._awaited:
                await self._look()

    async def _look(self) -> None:
        shards: defaultdict[int, list[Command]] = defaultdict(list)
        for command, futures in self._awaited.items():
            if not all(future.done() for future in futures):
                shards[self._databases.shard_of(command[0])].append(command)
        await asyncio.gather(*(self._look_in(shard, commands) for shard, commands in shards.items()))

    async def _look_in(self, shard: int, commands: list[Command]) -> None:
        try:
            found = await self._databases.read(shard, first_outcomes, commands)
        except Problem as problem:
            log.info("no outcomes from the database, trying again: %s", problem)
            return
        except Exception:
            log.exception("outcomes cannot be looked up, trying again; meanwhile they come from Kafka")
            return
        for outcome in found:
            for future in self._awaited.get((outcome.order_id, outcome.command_id), ()):
                if not future.done():
                    future.set_result(outcome)
