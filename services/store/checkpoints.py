"""What the database knows of checkpoints: their salt, and which one was published last. The chain itself is outside."""

from typing import Any

import msgspec
import psycopg


class CheckpointNotes(msgspec.Struct, frozen=True):
    """`salt`: what hashes begin with; `published`: the number of the last checkpoint on its topic."""

    salt: bytes
    published: int


def checkpoint_notes(connection: psycopg.Connection[Any]) -> CheckpointNotes | None:
    """None where somebody has deleted them. Raises psycopg.Error."""
    row = connection.execute("SELECT salt, published FROM checkpoints").fetchone()
    return None if row is None else CheckpointNotes(*row)


def note_published(connection: psycopg.Connection[Any], number: int, last_event_id: int) -> None:
    """The last checkpoint that was published, and the last event that it covers. Raises psycopg.Error."""
    connection.execute(
        "UPDATE checkpoints SET published = %(number)s, last_event_id = %(last)s "
        "WHERE (published, last_event_id) < (%(number)s, %(last)s)",
        {"number": number, "last": last_event_id},
    )
