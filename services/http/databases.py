"""The shards' databases, as the http role reads them: one for an order, all of them for a user."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from services.eventstore import database
from services.eventstore.database import ANSWER_WITHIN_SECONDS
from services.kafka.topics import Topics
from services.settings import Settings

from .problems import Problem

Connection = psycopg.Connection[Any]
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Databases:
    """A pool of connections for each. `topics`: they say in which partition an order is."""

    def __init__(self, pools: Sequence[ConnectionPool[database.Connection[Any]]], topics: Topics) -> None:
        self._pools = pools
        self._topics = topics

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator["Databases"]:
        """Raises psycopg.Error."""
        with ExitStack() as stack:
            pools = [
                database.pool(
                    one.database, min_size=1, max_size=8, answer_within=ANSWER_WITHIN_SECONDS, autocommit=True
                )
                for one in settings.shards
            ]
            yield cls([stack.enter_context(pool) for pool in pools], Topics(settings.topic_prefix, settings.shard))

    def shard_of(self, order_id: str) -> int:
        """The place of the database that has an order."""
        return self._topics.partition_of(order_id.encode()) % len(self._pools)

    def position(self, order_id: str, event_id: int) -> int:
        """What the API calls the position of an event of an order: it tells the shard, too."""
        return event_id * len(self._pools) + self.shard_of(order_id)

    def event_at(self, position: int) -> tuple[int, int]:
        """The shard and the event's number that a position tells."""
        event_id, shard = divmod(position, len(self._pools))
        return shard, event_id

    async def read(
        self, shard: int, look: Callable[Concatenate[Connection, _P], _T], *a: _P.args, **k: _P.kwargs
    ) -> _T:
        """Runs a query beside the event loop. Raises Problem (503) while the database is away."""

        def run() -> _T:
            with self._pools[shard].connection(timeout=5) as connection:
                return look(connection, *a, **k)

        try:
            return await asyncio.to_thread(run)
        except (psycopg.OperationalError, PoolTimeout):
            raise Problem(503, "The database does not answer; try again soon.", {"Retry-After": "2"}) from None
        except psycopg.errors.UndefinedTable:
            raise Problem(
                503, "The read models are not there yet; run the role projections.", {"Retry-After": "5"}
            ) from None

    async def read_order(
        self,
        look: Callable[Concatenate[Connection, str, _P], _T],
        order_id: str,
        *a: _P.args,
        **k: _P.kwargs,
    ) -> _T:
        """The same in the database that has the order."""
        return await self.read(self.shard_of(order_id), look, order_id, *a, **k)

    async def read_all(self, look: Callable[Concatenate[Connection, _P], _T], *a: _P.args, **k: _P.kwargs) -> list[_T]:
        """The same in each database."""
        return await asyncio.gather(*(self.read(shard, look, *a, **k) for shard in range(len(self._pools))))
