"""Rows as PostgreSQL copies them out in binary, one by one."""

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.abc import Query

Row = bytes | bytearray | memoryview
"""The number of columns (2 bytes), then for each its length (4 bytes) and its value. Integers are big-endian.

That is unambiguous, and the same for all versions of PostgreSQL.
"""

_HEADER, _TRAILER = 19, b"\xff\xff"


def copied_rows(connection: psycopg.Connection[Any], query: Query) -> Generator[Row]:
    """The rows of a `COPY ... TO STDOUT (FORMAT BINARY)`, streamed from the server. Raises psycopg.Error.

    The connection is busy until the last one was taken, or the generator is closed.
    """
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        start = _HEADER
        for chunk in copy:
            row: Row = chunk[start:]
            start = 0
            if row and row != _TRAILER:  # the header may come by itself
                yield row
