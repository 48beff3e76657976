"""The part of a split in each database: deletes the rows of other shards' orders, and stores the last numbers."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier, Literal

from services.eventstore.checkpoint_notes import CheckpointNotes, checkpoint_notes
from services.eventstore.database import connect, fetch_row, lock_appends
from services.failures import Failure

from .arithmetic import Shard
from .identity import ShardIdentity, Split, become, shard_identity

PartitionOf = Callable[[str], int]
"""Returns the partition of an order id."""

_AT_ONCE = 10_000
_OWNERS = ("partition", "originator_id", "order_id")
"""Columns that say which order or partition a row belongs to. The first one that a table has decides."""


class CannotSplit(Failure):
    """The databases cannot be split as they are. The text says what to do first."""


class State(msgspec.Struct, frozen=True):
    """The state of a database before it is split. Copies of one database have the same state."""

    identity: ShardIdentity
    """Which shard it is, and its earlier splits."""
    ends: Split
    """The numbers of its last event, outcome and reminder."""
    checkpoints: CheckpointNotes | None
    """What it has noted about its checkpoints, or None if it has none."""


def state_of(database_url: str) -> State:
    """Returns the state of a database. Raises CannotSplit and psycopg.Error."""
    with connect(database_url) as connection:
        try:
            identity, notes = shard_identity(connection), checkpoint_notes(connection)
        except psycopg.errors.UndefinedTable:
            raise CannotSplit(
                "A database of RESOLUTION_DATABASE_URL is not a copy of the service's database, or is a copy made by "
                "an earlier version. Name the databases as before, run `resolution migrate`, and copy again."
            ) from None
        ends = fetch_row(
            connection,
            "SELECT greatest(0, (SELECT max(notification_id) FROM order_events), max(event_id)), "
            "greatest(0, (SELECT max(outcome_id) FROM outcomes), max(outcome_id)), "
            "greatest(0, (SELECT max(notification_id) FROM notifications), max(notification_id)) FROM splits",
        )
    return State(identity, Split(identity.shard.count, *ends), notes)


def strays(database_url: str, shards: int, partition_of: PartitionOf) -> Iterator[tuple[str, int]]:
    """Yields orders that have commands in a partition of the wrong shard, with that partition. Raises psycopg.Error.

    Their senders do not use Kafka's default partitioner. Such an order cannot be in one shard alone.
    """
    with connect(database_url) as connection, connection.cursor("orders") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute("SELECT DISTINCT order_id, partition FROM outcomes WHERE order_id <> ''")
        for order_id, partition in cursor:
            if (partition - partition_of(order_id)) % shards:
                yield order_id, partition


def keep_own(
    database_url: str,
    before: State,
    shard: Shard,
    partitions: int,
    partition_of: PartitionOf,
    schemas: Collection[str],
    also: Callable[[psycopg.Connection[Any]], None],
) -> dict[str, int]:
    """Turns a copy into the shard, in one transaction. Returns how many rows it deleted from each table.

    `schemas`: the read models whose rows each belong to one order. The schema `public` is always included. Calls `also`
    in the same transaction. Raises CannotSplit if the database has changed since `before`, and psycopg.Error.
    """
    with connect(database_url) as connection:
        lock_appends(connection)
        if shard_identity(connection) != before.identity or state_of(database_url).ends != before.ends:
            raise CannotSplit(
                f"The database for {shard} has changed: a role still runs. Stop all roles, and copy again."
            )
        _list_others(connection, shard, partition_of)
        deleted = {}
        for schema, table, column in _tables_to_split(connection, ["public", *schemas]):
            name = table if schema == "public" else f"{schema}.{table}"
            deleted[name] = _delete_others(connection, Identifier(schema, table), column, shard)
        connection.execute("INSERT INTO splits VALUES (%s, %s, %s, %s)", msgspec.structs.astuple(before.ends))
        also(connection)
        become(connection, shard, partitions)
    return deleted


def _list_others(connection: psycopg.Connection[Any], shard: Shard, partition_of: PartitionOf) -> None:
    """Fills the temporary table `others` with the ids of other shards' orders."""
    connection.execute("CREATE TEMPORARY TABLE others (order_id text PRIMARY KEY) ON COMMIT DROP")
    with connection.cursor("orders") as orders:
        orders.itersize = _AT_ONCE
        orders.execute("SELECT originator_id FROM order_events UNION SELECT order_id FROM outcomes")
        while rows := orders.fetchmany(_AT_ONCE):
            _copy(connection, (order_id for (order_id,) in rows if not shard.has(partition_of(order_id))))


def _copy(connection: psycopg.Connection[Any], order_ids: Iterable[str]) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY pg_temp.others FROM STDIN") as copy:
        for order_id in order_ids:
            copy.write_row((order_id,))


def _tables_to_split(connection: psycopg.Connection[Any], schemas: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yields schema, name and deciding column (see `_OWNERS`) of each table that has one. Leaves out months' tables."""
    rows = connection.execute(
        "SELECT c.table_schema, c.table_name, array_agg(c.column_name::text) FROM information_schema.columns AS c "
        "JOIN information_schema.tables AS t USING (table_schema, table_name) "
        "WHERE t.table_type = 'BASE TABLE' AND c.table_schema = ANY(%s) "
        "AND format('%%I.%%I', table_schema, table_name)::regclass NOT IN (SELECT inhrelid FROM pg_inherits) "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        (list(schemas),),
    ).fetchall()
    for schema, table, columns in rows:
        if column := next((column for column in _OWNERS if column in columns), None):
            yield schema, table, column


def _delete_others(connection: psycopg.Connection[Any], table: Identifier, column: str, shard: Shard) -> int:
    """Deletes a table's rows of other shards. Returns how many."""
    if column == "partition":
        condition = SQL("partition % {} <> {}").format(Literal(shard.count), Literal(shard.number))
    else:
        condition = SQL("{} IN (SELECT order_id FROM pg_temp.others)").format(Identifier(column))
    return connection.execute(SQL("DELETE FROM {} WHERE {}").format(table, condition)).rowcount
