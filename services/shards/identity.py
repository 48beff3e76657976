"""Stores in each database which shard it is, and compares that at each start.

So a process with an old or wrong RESOLUTION_DATABASE_URL is refused. One that is running already cannot move positions.
"""

from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row
from psycopg.sql import SQL, Literal

from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect, fetch_row, fetch_value, lock_appends
from services.failures import Misuse

from .arithmetic import Shard


class WrongShard(Misuse):
    """The database is not the shard that RESOLUTION_DATABASE_URL says. The text says what to do."""


class Split(msgspec.Struct, frozen=True):
    """A row of the table `splits`: the last numbers of a database when it was split."""

    count: int = 0
    """How many databases there were before."""
    event_id: int = 0
    """The last event."""
    outcome_id: int = 0
    """The last outcome."""
    notification_id: int = 0
    """The last reminder."""


class ShardIdentity(msgspec.Struct, frozen=True):
    """Which shard a database is, and the splits that it comes from, oldest first."""

    shard: Shard
    splits: list[Split] = []

    @property
    def last_split(self) -> Split:
        """The latest split. Ids at or below it may belong to other shards; all are 0 if there was none."""
        return self.splits[-1] if self.splits else Split()


def shard_identity(connection: psycopg.Connection[Any]) -> ShardIdentity:
    """Returns which shard this database is. Raises psycopg.Error."""
    with connection.cursor(row_factory=class_row(Split)) as cursor:
        cursor.execute("SELECT count, event_id, outcome_id, notification_id FROM splits ORDER BY count")
        splits = cursor.fetchall()
    number, count, partitions = fetch_row(connection, "SELECT number, count, partitions FROM shard")
    return ShardIdentity(Shard(number, count, partitions), splits)


def known_partitions(database_url: str) -> int | None:
    """Returns how many partitions the topics of this database have, or None if it has read none yet.

    A database of an earlier version does not store the number, but has a stored position for each partition. Raises
    psycopg.Error.
    """
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        partitions: int | None = fetch_value(
            connection,
            "SELECT coalesce(partitions, (SELECT max(partition) + 1 FROM positions WHERE consumer = 'commands' "
            "AND EXISTS (SELECT FROM outcomes) HAVING max(partition) + 1 = count(*))) FROM shard",
        )
    return partitions


def require_shard(database_url: str, shard: Shard) -> ShardIdentity:
    """Returns the database's identity. Raises WrongShard if it is not `shard`, and psycopg.Error. Writes nothing."""
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        try:
            found = shard_identity(connection)
        except psycopg.errors.UndefinedTable:
            raise WrongShard(
                "This is not the service's database, or not of this version yet. Check RESOLUTION_DATABASE_URL; "
                "`resolution migrate` brings a database up to date."
            ) from None
    if found.shard != shard:
        raise WrongShard(_refusal(found.shard, shard))
    return found


def claim_shard(database_url: str, shard: Shard, partitions: int) -> None:
    """Makes an empty database this shard. If it is this shard already, only notes the number of partitions.

    Raises WrongShard if the database is another shard, if the topics have another number of partitions, or if this user
    may not note it; and psycopg.Error.
    """
    if shard.count > partitions:
        raise WrongShard(
            f"RESOLUTION_DATABASE_URL names {shard.count} databases, but the topics have {partitions} partitions, and "
            f"a partition is in one database: the last ones would stay empty. Name {partitions} at most."
        )
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        if (found := shard_identity(connection)).shard == shard:
            if found.shard.total is None:
                _note_partitions(connection, partitions)
            elif found.shard.total != partitions:
                raise WrongShard(
                    f"The database of {shard} was made for {found.shard.total} partitions, and the topics have "
                    f"{partitions}: orders would be looked for in the wrong one. Check RESOLUTION_TOPIC_PREFIX."
                )
            return
        lock_appends(connection)
        if shard_identity(connection).shard.alone and _is_empty(connection):
            become(connection, shard, partitions)
        elif (found := shard_identity(connection)).shard != shard:
            raise WrongShard(_refusal(found.shard, shard))


def _note_partitions(connection: psycopg.Connection[Any], partitions: int) -> None:
    try:
        connection.execute("UPDATE shard SET partitions = %s WHERE partitions IS NULL", (partitions,))
    except psycopg.errors.InsufficientPrivilege:
        raise WrongShard(
            "The database does not know yet how many partitions the topics have, and user "
            f"{connection.info.user} may not note it: run `resolution migrate` as its owner (resolution_owner) first."
        ) from None


def become(connection: psycopg.Connection[Any], shard: Shard, partitions: int) -> None:
    """Stores which shard this database is. Raises psycopg.Error.

    A constraint on the positions stops processes that still have old settings from handling another shard's partitions.
    """
    connection.execute(
        "UPDATE shard SET number = %s, count = %s, partitions = %s", (shard.number, shard.count, partitions)
    )
    connection.execute("ALTER TABLE positions DROP CONSTRAINT IF EXISTS positions_of_this_shard")
    connection.execute(
        SQL("ALTER TABLE positions ADD CONSTRAINT positions_of_this_shard CHECK (partition % {} = {})").format(
            Literal(shard.count), Literal(shard.number)
        )
    )


def _is_empty(connection: psycopg.Connection[Any]) -> bool:
    query = (
        "SELECT EXISTS (SELECT FROM outcomes) OR EXISTS (SELECT FROM order_events) OR EXISTS (SELECT FROM positions) "
        "OR EXISTS (SELECT FROM parked_commands)"
    )
    return not fetch_value(connection, query)


def _refusal(is_: Shard, named: Shard) -> str:
    if named.alone:
        return (
            f"RESOLUTION_DATABASE_URL names one database, and that is {is_}: the others have the rest of the orders. "
            f"Name all {is_.count}, in their order, with spaces between."
        )
    if is_.alone:
        return (
            f"RESOLUTION_DATABASE_URL names {named.count} databases, but the one for {named} has the orders of an "
            "installation with one database. Name that one alone, or move it to several as docs/scaling.md says "
            "(resolution split)."
        )
    return (
        f"The database that RESOLUTION_DATABASE_URL names for {named} is {is_}. Name the databases in the order in "
        "which they were set up."
    )
