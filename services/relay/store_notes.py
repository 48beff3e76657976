"""What the relay notes in the store about what it publishes, so that it can tell which of the two was restored.

An intent is noted before anything is published: a store that lacks it is an earlier state of itself. It is noted in the
transaction that reads what is to be published, and only where the last one still is. So the relay notices a database
that falls back under a living connection, which a pooler may keep open across a failover, before it publishes from it.
From time to time the relay notes what it has published and where its topics ended then: there the comparison begins.
"""

from typing import Any, LiteralString

import msgspec
import psycopg
from msgspec import structs

from services.eventstore.database import fetch_row_async
from services.kafka.read_topics import Ends
from services.kafka.relay_position import Position


class NoteMissing(Exception):
    """The store has not the last note: a sentence that says what that means."""

    def __init__(self, last: Position) -> None:
        super().__init__(
            f"the store does not know any more that outcome {last.outcome_id} was to be published: the database has "
            "fallen back to an earlier state (a failover, a restore), or another relay has taken over. The relay ends, "
            "and its next start compares the store with Kafka before it publishes anything."
        )


class Notes(msgspec.Struct, frozen=True):
    """`intended`: the last outcome and the last notification that may be on Kafka; None where an earlier version of the
    service has published. `published` was on Kafka when its topics ended at `ends`."""

    timeline: str
    intended: tuple[int, int] | None
    published: Position
    ends: Ends

    def lack(self, position: Position) -> bool:
        """Whether more is on Kafka than this store has ever meant to publish: it was restored to an earlier state."""
        if self.intended is None:
            return False
        outcome_id, notification_id = self.intended
        return (
            position.timeline != self.timeline
            or position.outcome_id > outcome_id
            or position.notification_id > notification_id
        )

    def exceed(self, position: Position) -> bool:
        """Whether Kafka has lost what it had."""
        return (
            position.outcome_id < self.published.outcome_id or position.notification_id < self.published.notification_id
        )


async def read_notes(connection: psycopg.AsyncConnection[Any]) -> Notes:
    """Raises psycopg.Error."""
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
    """Everything up to `after` is about to be published, behind `last`, which was noted before.

    To be called in the transaction that read what is to be published. Raises NoteMissing, where `last` is not noted any
    more, and psycopg.Error.
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
    """Notes a position in a timeline of its own, which begins with it. Raises psycopg.Error."""
    await connection.execute(
        "UPDATE publishing SET timeline = %s, intended_outcome_id = %s, intended_notification_id = %s",
        (position.timeline, position.outcome_id, position.notification_id),
    )


async def note_published(connection: psycopg.AsyncConnection[Any], position: Position, ends: Ends) -> None:
    """Everything up to `position`, which was noted before, and nothing else, is on Kafka before `ends`.

    Raises NoteMissing and psycopg.Error.
    """
    cursor = await connection.execute(
        f"UPDATE publishing SET published = %(published)s, ends = %(ends)s WHERE {_LAST_IS_NOTED}",  # noqa: S608
        structs.asdict(position) | {"published": msgspec.json.encode(position), "ends": msgspec.json.encode(ends)},
    )
    if cursor.rowcount == 0:
        raise NoteMissing(position)
