"""What the relay notes in the store about what it publishes, to find out whether the store or Kafka was restored.

Before it publishes anything, the relay notes how far it is about to publish: its intent. A store that lacks the intent
was restored to an earlier state. The relay notes it in the transaction that reads what it will publish, and only if the
last intent is still there. So it notices a failover to an earlier state even if a pooler keeps its connection open.
At most once a second the relay also notes what it has published, and where the topics ended then. After a restore, the
comparison begins there.
"""

from typing import Any, LiteralString

import msgspec
import psycopg
from msgspec import structs

from services.eventstore.database import fetch_row_async
from services.kafka.read_topics import Ends
from services.kafka.relay_position import Position


class NoteMissing(Exception):
    """The store lacks the last note. The text says what that means."""

    def __init__(self, last: Position) -> None:
        super().__init__(
            f"the store does not know any more that outcome {last.outcome_id} was to be published: the database has "
            "fallen back to an earlier state (a failover, a restore), or another relay has taken over. The relay ends; "
            "its next start compares the store with Kafka before it publishes anything."
        )


class Notes(msgspec.Struct, frozen=True):
    """The row of the table `publishing`."""

    timeline: str
    """Names the run of numbers that the store gives. A restored store begins another one."""
    intended: tuple[int, int] | None
    """The last outcome and the last reminder that may be on Kafka; None if an earlier version published."""
    published: Position
    """How far the relay had published when it noted `ends`."""
    ends: Ends
    """Where the topics ended then."""

    def lack(self, position: Position) -> bool:
        """Whether more is on Kafka than this store has noted as intended: then the store was restored."""
        if self.intended is None:
            return False
        outcome_id, notification_id = self.intended
        return (
            position.timeline != self.timeline
            or position.outcome_id > outcome_id
            or position.notification_id > notification_id
        )

    def exceed(self, position: Position) -> bool:
        """Whether less is on Kafka than this store has noted as published: then Kafka has lost data."""
        return (
            position.outcome_id < self.published.outcome_id or position.notification_id < self.published.notification_id
        )


async def read_notes(connection: psycopg.AsyncConnection[Any]) -> Notes:
    """Returns the store's notes. Raises psycopg.Error."""
    timeline, outcome_id, notification_id, published, ends = await fetch_row_async(
        connection, "SELECT timeline, intended_outcome_id, intended_notification_id, published, ends FROM publishing"
    )
    return Notes(
        timeline,
        None if outcome_id is None else (outcome_id, notification_id),
        Position() if published is None else msgspec.json.decode(published, type=Position),
        {} if ends is None else msgspec.json.decode(ends, type=Ends),
    )


_LAST_IS_NOTED: LiteralString = (
    "timeline = %(timeline)s AND coalesce(intended_outcome_id, 0) >= %(outcome_id)s "
    "AND coalesce(intended_notification_id, 0) >= %(notification_id)s"
)


async def note_intent(connection: psycopg.AsyncConnection[Any], last: Position, after: Position) -> None:
    """Notes that everything up to `after` is about to be published. `last` was noted before.

    Call it in the transaction that reads what will be published. Raises NoteMissing if `last` is not noted any more,
    and psycopg.Error.
    """
    if after == last:
        cursor = await connection.execute(
            f"SELECT FROM publishing WHERE {_LAST_IS_NOTED}",
            structs.asdict(last),
            prepare=True,
        )
    else:
        cursor = await connection.execute(
            "UPDATE publishing SET intended_outcome_id = greatest(intended_outcome_id, %(after_outcome)s), "  # noqa: S608
            "intended_notification_id = greatest(intended_notification_id, %(after_notification)s) "
            f"WHERE {_LAST_IS_NOTED}",
            structs.asdict(last) | {"after_outcome": after.outcome_id, "after_notification": after.notification_id},
            prepare=True,
        )
    if cursor.rowcount == 0:
        raise NoteMissing(last)


async def begin_timeline(connection: psycopg.AsyncConnection[Any], position: Position) -> None:
    """Begins the timeline of this position, and notes the position. Raises psycopg.Error."""
    await connection.execute(
        "UPDATE publishing SET timeline = %s, intended_outcome_id = %s, intended_notification_id = %s",
        (position.timeline, position.outcome_id, position.notification_id),
    )


async def note_published(connection: psycopg.AsyncConnection[Any], position: Position, ends: Ends) -> None:
    """Notes that the topics ended at `ends` when exactly everything up to `position` was published.

    Raises NoteMissing if the store lacks the intent for `position`, and psycopg.Error.
    """
    cursor = await connection.execute(
        f"UPDATE publishing SET published = %(published)s, ends = %(ends)s WHERE {_LAST_IS_NOTED}",  # noqa: S608
        structs.asdict(position) | {"published": msgspec.json.encode(position), "ends": msgspec.json.encode(ends)},
    )
    if cursor.rowcount == 0:
        raise NoteMissing(position)
