"""What the database knows of checkpoints: their salt, and which one was published last. The chain itself is outside."""

from typing import Any

import msgspec
import psycopg


class CheckpointLost(Exception):
    """The database is an earlier state of itself: a sentence that says so, and what happens now."""


class CheckpointNotes(msgspec.Struct, frozen=True):
    """`salt`: what hashes begin with; `published`: the number of the last checkpoint on its topic."""

    salt: bytes
    published: int


def checkpoint_notes(connection: psycopg.Connection[Any]) -> CheckpointNotes | None:
    """None where somebody has deleted them. Raises psycopg.Error."""
    row = connection.execute("SELECT salt, published FROM checkpoints").fetchone()
    return None if row is None else CheckpointNotes(*row)


def require_noted(connection: psycopg.Connection[Any], number: int) -> None:
    """To be called in the transaction that reads what follows checkpoint `number`.

    Raises CheckpointLost where the database does not know that one any more, and psycopg.Error.
    """
    notes = checkpoint_notes(connection)
    if notes is None or notes.published < number:
        raise CheckpointLost(
            f"the database does not know any more that checkpoint {number} was published: it has fallen back to an "
            "earlier state (a failover, a restore). The role ends, and its next start compares the events with what "
            "was signed."
        )


def note_published(connection: psycopg.Connection[Any], number: int, last_event_id: int) -> None:
    """The last checkpoint that was published, and the last event that it covers.

    To be called in the transaction that compares its events. Raises psycopg.Error.
    """
    connection.execute(
        "UPDATE checkpoints SET published = %(number)s, last_event_id = %(last)s "
        "WHERE (published, last_event_id) < (%(number)s, %(last)s)",
        {"number": number, "last": last_event_id},
    )
