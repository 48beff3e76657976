"""Reads the shards' databases: one of them for an order, all of them for a user."""

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
    """A pool of connections for each shard's database. `topics` says in which partition an order is."""

    def __init__(self, pools: Sequence[ConnectionPool[database.Connection[Any]]], topics: Topics) -> None:
        self._pools = pools
        self._topics = topics

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator["Databases"]:
        """Opens the pools. Raises psycopg.Error."""
        with ExitStack() as stack:
            pools = [
                database.pool(
                    shard.database, min_size=1, max_size=8, answer_within=ANSWER_WITHIN_SECONDS, autocommit=True
                )
                for shard in settings.shards
            ]
            yield cls([stack.enter_context(pool) for pool in pools], Topics(settings.topic_prefix, settings.shard))

    def shard_of(self, order_id: str) -> int:
        """Returns the number of the shard that has an order."""
        return self._topics.partition_of(order_id.encode()) % len(self._pools)

    def position(self, order_id: str, event_id: int) -> int:
        """Returns the API position of an order's event. It contains the shard's number, too."""
        return event_id * len(self._pools) + self.shard_of(order_id)

    def event_at(self, position: int) -> tuple[int, int]:
        """Returns the shard's number and the event number in an API position."""
        event_id, shard = divmod(position, len(self._pools))
        return shard, event_id

    async def read(
        self, shard: int, look: Callable[Concatenate[Connection, _P], _T], *a: _P.args, **k: _P.kwargs
    ) -> _T:
        """Runs a query in a thread. Raises Problem (503) if the database or the read models are not available."""

        def run() -> _T:
            with self._pools[shard].connection(timeout=5) as connection:
                return look(connection, *a, **k)

        try:
            return await asyncio.to_thread(run)
        except (psycopg.OperationalError, PoolTimeout):
            raise Problem(503, "The database does not answer; try again soon.", {"Retry-After": "2"}) from None
        except psycopg.errors.UndefinedTable:
            raise Problem(
                503, "The read models do not exist yet; run the projections role.", {"Retry-After": "5"}
            ) from None

    async def read_order(
        self,
        look: Callable[Concatenate[Connection, str, _P], _T],
        order_id: str,
        *a: _P.args,
        **k: _P.kwargs,
    ) -> _T:
        """Runs a query in the database that has the order. Raises what `read` does."""
        return await self.read(self.shard_of(order_id), look, order_id, *a, **k)

    async def read_all(self, look: Callable[Concatenate[Connection, _P], _T], *a: _P.args, **k: _P.kwargs) -> list[_T]:
        """Runs a query in each database. Returns the results in the order of the shards. Raises what `read` does."""
        return await asyncio.gather(*(self.read(shard, look, *a, **k) for shard in range(len(self._pools))))
