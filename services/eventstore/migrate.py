"""Brings a database's schema up to date. Forward only. Safe to run twice, and by two processes at once.

The previous release works during and after a migration, because migrations only add to the schema (`.squawk.toml`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import psycopg

from services.failures import Failure

from .database import UnfitDatabase, connect, fetch_row, fetch_value

log = logging.getLogger(__name__)

_LOCK = 7_283_640_114  # an arbitrary number for the advisory lock
_LOCK_TIMEOUT = "5s"


class SchemaOutdated(Failure):
    """The schema lacks migrations, and this user may not run them. The text says who may."""


def migrate(database_url: str) -> list[str]:
    """Runs the migrations that this database lacks, in order, and grants what roles need. Returns their names.

    For a user who does not own the schema, only checks that it is up to date. Raises SchemaOutdated if it is not;
    UnfitDatabase if an empty database is not in UTF-8; psycopg.errors.LockNotAvailable (an OperationalError) if a table
    is in use for too long: then run it again; psycopg.Error otherwise.
    """
    with connect(database_url, autocommit=True) as connection:
        if not _may_migrate(connection):
            _require_all(connection)
            return []
        _require_utf8(connection)
        with _exclusive_transaction(connection):
            connection.execute('CREATE TABLE IF NOT EXISTS schema_migrations (name text COLLATE "C" PRIMARY KEY)')
        ran = [path.name for path in _missing(connection) if _run(connection, path)]
        with _exclusive_transaction(connection):
            connection.execute(files(__package__).joinpath("grants.sql").read_bytes())
        return ran


def _run(connection: psycopg.Connection[Any], path: Traversable) -> bool:
    """Runs a migration. Returns False if another process has run it meanwhile."""
    with _exclusive_transaction(connection):
        if fetch_value(connection, "SELECT 1 FROM schema_migrations WHERE name = %s", (path.name,)):
            return False
        connection.execute(path.read_bytes())
        connection.execute("INSERT INTO schema_migrations VALUES (%s)", (path.name,))
        return True


@contextmanager
def _exclusive_transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Opens a transaction in which no other migration runs. Lock and settings end with it, as a pooler requires."""
    with connection.transaction():
        connection.execute("SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        # Other sessions queue up after a statement that waits for a table, so it must not wait for long.
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        yield


def _require_utf8(connection: psycopg.Connection[Any]) -> None:
    """Refuses an empty database that is not in UTF-8. Only warns if the database has the service's tables."""
    encoding, empty = fetch_row(connection, "SELECT getdatabaseencoding(), to_regclass('schema_migrations') IS NULL")
    if encoding == "UTF8":
        return
    sentence = (
        f"The database {connection.info.dbname} has the encoding {encoding}, which cannot hold every text that comes. "
        "The service needs UTF8: create a database with CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8' "
    )
    if empty:
        raise UnfitDatabase(sentence + "and name it in RESOLUTION_DATABASE_URL.")
    log.warning("%sand move this one there with pg_dump and pg_restore.", sentence)


def _may_migrate(connection: psycopg.Connection[Any]) -> bool:
    """Whether this user owns the schema's tables, or may create the first ones."""
    query = (
        "SELECT coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class "
        "WHERE oid = to_regclass('schema_migrations')), has_schema_privilege(current_schema(), 'CREATE'))"
    )
    return bool(fetch_value(connection, query))


def _require_all(connection: psycopg.Connection[Any]) -> None:
    there = fetch_value(connection, "SELECT to_regclass('schema_migrations') IS NOT NULL")
    if not there or (missing := _missing(connection)):
        which = f"lacks {', '.join(path.name for path in missing)}" if there else "is not there yet"
        raise SchemaOutdated(
            f"The database's schema {which}, and user {connection.info.user} may not change it: run `resolution "
            "migrate` as its owner (resolution_owner) first."
        )


def _missing(connection: psycopg.Connection[Any]) -> list[Traversable]:
    done = {name for (name,) in connection.execute("SELECT name FROM schema_migrations")}
    paths = (path for path in files(__package__).joinpath("migrations").iterdir() if path.name.endswith(".sql"))
    return sorted((path for path in paths if path.name not in done), key=lambda path: path.name)
