"""Sessions whose transactions hold what others wait for."""

from typing import Any, LiteralString

import psycopg

LET_GO: LiteralString = "SET idle_in_transaction_session_timeout = '5s'"
"""PostgreSQL ends the session where its process hangs in the middle of a transaction; the library's own do the same."""


async def connect(url: str) -> psycopg.AsyncConnection[Any]:
    """For a role's own use. Statements outside of a transaction commit by themselves. Raises psycopg.Error."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await connection.execute(LET_GO)
    return connection
