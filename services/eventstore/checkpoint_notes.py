"""What the database stores about checkpoints: their salt, and the last one published. They themselves are on Kafka."""

from typing import Any

import msgspec
import psycopg


class CheckpointLost(Exception):
    """The database was restored to an earlier state, or failed over to one. The text says what happens now."""


class CheckpointNotes(msgspec.Struct, frozen=True):
    """The row of the table `checkpoints`."""

    salt: bytes
    """Goes first into each hash."""
    published: int
    """The number of the last checkpoint on Kafka; 0 if there is none."""


def checkpoint_notes(connection: psycopg.Connection[Any]) -> CheckpointNotes | None:
    """Returns the notes, or None if somebody has deleted them. Raises psycopg.Error."""
    row = connection.execute("SELECT salt, published FROM checkpoints").fetchone()
    return None if row is None else CheckpointNotes(*row)


def require_noted(connection: psycopg.Connection[Any], number: int) -> None:
    """Checks that the database still knows checkpoint `number`. Raises CheckpointLost if not, and psycopg.Error.

    Call it in the transaction that reads the events after this checkpoint.
    """
    notes = checkpoint_notes(connection)
    if notes is None or notes.published < number:
        raise CheckpointLost(
            f"the database does not know any more that checkpoint {number} was published: it has fallen back to an "
            "earlier state (a failover, a restore). The role ends, and its next start compares the events with what "
            "was signed."
        )


def note_published(connection: psycopg.Connection[Any], number: int, last_event_id: int) -> None:
    """Notes the last checkpoint that was published, and the last event that it covers. Raises psycopg.Error.

    Call it in the transaction that compares the checkpoint's events.
    """
    connection.execute(
        "UPDATE checkpoints SET published = %(number)s, last_event_id = %(last)s "
        "WHERE (published, last_event_id) < (%(number)s, %(last)s)",
        {"number": number, "last": last_event_id},
    )
