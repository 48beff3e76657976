"""Brings a database's schema up to date. Forward only, safe to run twice and by two at once.

The release before goes on working meanwhile and afterwards: a migration only adds to what there is (`.squawk.toml`).
"""

from importlib.resources import files

import psycopg

_LOCK = 7_283_640_114  # any number that nobody else uses for an advisory lock
_LOCK_TIMEOUT = "5s"


def migrate(database_url: str) -> list[str]:
    """Runs the migrations that this database has not seen, in order; returns their names.

    Raises psycopg.Error where the database cannot be reached or refuses, and psycopg.errors.LockNotAvailable (an
    OperationalError) where a table is in use for long: then run it again.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        # Whoever comes after a statement that waits for a table waits as well.
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY)")
        done = {name for (name,) in connection.execute("SELECT name FROM schema_migrations")}
        missing = sorted(
            (path for path in files(__package__).joinpath("migrations").iterdir() if path.name.endswith(".sql")),
            key=lambda path: path.name,
        )
        new = [path for path in missing if path.name not in done]
        for path in new:
            with connection.transaction():
                connection.execute(path.read_bytes())
                connection.execute("INSERT INTO schema_migrations VALUES (%s)", (path.name,))
        return [path.name for path in new]
