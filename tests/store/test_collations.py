"""Text keys are compared byte by byte, so that no index depends on a C library."""

import psycopg
import pytest

from services.eventstore.migrate import migrate
from tests.store.test_databases import works
from tests.store.test_migrations import MIGRATIONS, put_database
from tests.support.backups import empty
from tests.support.commands import register
from tests.support.installation import Installation

OTHERS = """
SELECT indrelid::regclass::text, attname FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid
JOIN pg_attribute ON attrelid = indexrelid
WHERE attcollation NOT IN (0, 'pg_catalog."C"'::regcollation)
AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1, 2
"""


def recreate(installation: Installation, locale: str) -> None:
    empty(installation)
    url = installation.settings.database
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url.replace(f"/{name}", "/postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE '{locale}'")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_no_index_depends_on_the_databases_collation(installation: Installation, locale: str):
    recreate(installation, locale)
    migrate(installation.settings.database)
    await works(installation)
    assert installation.query(OTHERS) == []
    installation.query("SELECT add_month('2199-01-01')")
    assert installation.query(OTHERS) == []


async def test_what_earlier_versions_made_is_changed_where_it_is(installation: Installation):
    """Migrates the first release's rows without rewriting a table."""
    put_database(installation)
    before = dict(installation.query("SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r'"))
    rows = installation.query("SELECT originator_id, originator_version FROM order_events ORDER BY notification_id")
    assert migrate(installation.settings.database) == MIGRATIONS[1:]
    after = dict(installation.query("SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r'"))
    assert after["order_events"] == before["order_events"]
    assert installation.query(OTHERS) == []
    assert (
        installation.query("SELECT originator_id, originator_version FROM order_events ORDER BY notification_id")
        == rows
    )


async def test_read_models_that_earlier_versions_built_are_changed_too(installation: Installation):
    await installation.run("commands", "relay", "projections")
    await installation.send("order-1", register())
    await installation.until_projected()
    await installation.stop("projections")
    installation.query('ALTER TABLE order_page.orders ALTER COLUMN order_id TYPE text COLLATE "default"')
    assert ("order_page.orders", "order_id") in installation.query(OTHERS)
    await installation.run("projections")
    assert installation.query(OTHERS) == []
