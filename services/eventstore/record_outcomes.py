"""What became of each record of the commands topic, in the order of the topic."""

import struct
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from .database import connect, copied_rows

Fate = tuple[int, int, str]
"""Partition, offset, and what it became: a kind of outcome, or `parked`."""

_FIELDS = struct.Struct(">hiiiqi")
"""Of a row copied out in binary: how many columns, then each column's length and value, but for the kind's value."""


@contextmanager
def snapshot(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Everything that is read is as of one moment, and nothing can be written. Raises psycopg.Error."""
    with connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection
        connection.rollback()


def judged_up_to(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """By partition, the offset that the commands role reads next. Raises psycopg.Error."""
    rows = connection.execute("SELECT partition, next_offset FROM positions WHERE consumer = 'commands'")
    return dict(rows.fetchall())


def fates(connection: psycopg.Connection[Any]) -> Generator[Fate]:
    """All of them, by partition and offset; an offset may come twice. Sorted by the server, streamed from there.

    The connection is busy until the last one was taken, or the generator is closed. Raises psycopg.Error.
    """
    query = (
        "COPY (SELECT partition, record_offset, kind FROM outcomes UNION ALL "
        "SELECT partition, record_offset, 'parked' FROM parked_commands ORDER BY 1, 2) TO STDOUT (FORMAT BINARY)"
    )
    kinds: dict[bytes, str] = {}
    with closing(copied_rows(connection, query)) as rows:
        for row in rows:
            _, _, partition, _, offset, _ = _FIELDS.unpack_from(row)
            name = bytes(row[_FIELDS.size :])
            if (kind := kinds.get(name)) is None:
                kind = kinds[name] = name.decode()
            yield partition, offset, kind
