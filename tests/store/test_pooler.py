"""The service behind PgBouncer, and the state in which it leaves connections for other clients."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import psycopg
import pytest

from services.eventstore.database import UnfitDatabase, connect, connect_async
from services.eventstore.migrate import migrate
from services.runtime.installation import claim_shards
from services.runtime.roles import ROLES
from services.runtime.supervisor import Supervisor
from tests.audit.test_verify import findings
from tests.observability.prometheus import free_port
from tests.observability.test_endpoints import ready
from tests.support.backups import empty
from tests.support.commands import ask_update, register
from tests.support.installation import PARTITIONS, Installation, until
from tests.support.pgbouncer import PgBouncer, needed

pytestmark = needed
_SETTINGS = (
    "lock_timeout",
    "synchronous_commit",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "search_path",
    "DateStyle",
    "default_transaction_isolation",
)


@pytest.fixture(params=["session", "transaction"])
def pooled(installation: Installation, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """An installation with an empty database behind PgBouncer."""
    empty(installation)
    with behind_pgbouncer(installation, request.param):
        yield installation


@contextmanager
def behind_pgbouncer(installation: Installation, mode: str) -> Iterator[PgBouncer]:
    direct = installation.settings
    with PgBouncer.before(direct.database, mode) as pooler:
        installation.settings = replace(direct, database_url=pooler.url(direct.database))
        installation.metrics_ports = {role: free_port() for role in ROLES}
        installation.supervisor = Supervisor(installation.settings, installation.metrics_ports)
        yield pooler


async def test_the_service_works_behind_pgbouncer_and_leaves_nothing_with_others(pooled: Installation):
    url = pooled.settings.database
    async with asyncio.timeout(30):
        await asyncio.gather(*(asyncio.to_thread(migrate, url) for _ in range(2)))
        assert await asyncio.to_thread(migrate, url) == []
    claim_shards(pooled.settings, PARTITIONS)

    await pooled.run(*ROLES)
    for number in range(20):
        await pooled.send(f"order-{number}", register())
        await pooled.send(f"order-{number}", ask_update())
    for port in pooled.metrics_ports.values():
        await until(lambda port=port: ready(port))
    await pooled.until_projected()
    assert pooled.page("order-1") is not None
    assert (await findings(pooled))["differences"] == []
    assert leftovers(url) == []
    await pooled.stop()
    assert leftovers(url) == []


def leftovers(url: str) -> list[object]:
    """What a client finds in the sessions of the server, as many as the pooler hands out, that is not the default."""
    found: list[object] = []
    with ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(psycopg.connect(url, prepare_threshold=None))
            found += connection.execute(
                "SELECT name, setting, pg_backend_pid() FROM pg_settings WHERE name = ANY(%s) AND setting <> reset_val",
                ([name.lower() for name in _SETTINGS] + list(_SETTINGS),),
            ).fetchall()
            found += connection.execute("SELECT pg_listening_channels()").fetchall()
            found += connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()
            found += connection.execute(
                "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            ).fetchall()
    return found


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_database_whose_settings_would_have_to_be_changed_is_refused_behind_pgbouncer(
    installation: Installation, mode: str
):
    """What the sentence says to do is enough."""
    direct = installation.settings.database
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET search_path = elsewhere, public")
        connection.execute(f"ALTER DATABASE {name} SET DateStyle = 'German, DMY'")
        with PgBouncer.before(direct, mode) as pooler:
            with pytest.raises(UnfitDatabase, match="behind a pooler") as refused:
                migrate(pooler.url(direct))
            connection.execute(str(refused.value).partition("the pooler: ")[2].encode())
        with PgBouncer.before(direct, mode) as pooler:
            assert migrate(pooler.url(direct)) == []


async def test_a_pooler_is_noticed_and_nothing_else(installation: Installation):
    direct = installation.settings.database
    with connect(direct) as connection:
        assert not connection.pooled
    with PgBouncer.before(direct, "session") as pooler:
        with connect(pooler.url(direct)) as connection:
            assert connection.pooled
            connection.execute("SELECT 1", prepare=True)
            assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        async with await connect_async(pooler.url(direct)) as other:
            assert other.pooled
