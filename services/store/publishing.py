"""What the relay notes in the store about what it publishes, so that it can tell which of the two was restored.

An intent is noted before anything is published: a store that lacks it is an earlier state of itself. From time to time
the relay notes what it has published and where its topics ended then: there the comparison begins.
"""

from typing import Any

import msgspec
import psycopg

from services.kafka.relay_position import Position
from services.kafka.streams import Ends


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
    row = await (
        await connection.execute(
            "SELECT timeline, intended_outcome_id, intended_notification_id, published, ends FROM publishing"
        )
    ).fetchone()
    assert row is not None
    timeline, outcome_id, notification_id, published, ends = row
    return Notes(
        timeline,
        None if outcome_id is None else (outcome_id, notification_id),
        Position() if published is None else msgspec.json.decode(published, type=Position),
        {} if ends is None else msgspec.json.decode(ends, type=Ends),
    )


async def note_intent(connection: psycopg.AsyncConnection[Any], position: Position) -> None:
    """Everything up to `position` is about to be published, in its timeline.

    Raises RuntimeError where another relay has begun another timeline, and psycopg.Error.
    """
    cursor = await connection.execute(
        "UPDATE publishing SET intended_outcome_id = greatest(intended_outcome_id, %s), "
        "intended_notification_id = greatest(intended_notification_id, %s) WHERE timeline = %s",
        (position.outcome_id, position.notification_id, position.timeline),
        prepare=True,
    )
    if cursor.rowcount == 0:
        raise RuntimeError("another relay has taken over, on a database that was restored")


async def begin_timeline(connection: psycopg.AsyncConnection[Any], position: Position) -> None:
    """The same for a position in a timeline of its own, which is about to begin. Raises psycopg.Error."""
    await connection.execute(
        "UPDATE publishing SET timeline = %s, intended_outcome_id = %s, intended_notification_id = %s",
        (position.timeline, position.outcome_id, position.notification_id),
    )


async def note_published(connection: psycopg.AsyncConnection[Any], position: Position, ends: Ends) -> None:
    """Everything up to `position`, and nothing else, is on Kafka before `ends`. Raises psycopg.Error."""
    await connection.execute(
        "UPDATE publishing SET published = %s, ends = %s WHERE timeline = %s",
        (msgspec.json.encode(position), msgspec.json.encode(ends), position.timeline),
    )
