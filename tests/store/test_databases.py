"""Databases that are set up otherwise than the ones that we make: refused, or as good as ours."""

import logging
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from projections.framework.rebuild import Rebuild
from services.embedded import Servers
from services.eventstore.database import UnfitDatabase, connect, connect_async, pool
from services.eventstore.migrate import migrate
from services.runtime.installation import claim_shards
from services.runtime.roles import ROLES
from tests.audit.test_verify import findings
from tests.observability.prometheus import free_port
from tests.observability.test_endpoints import ready
from tests.support.backups import empty
from tests.support.commands import CLIENT, ask_update, register
from tests.support.installation import PARTITIONS, Installation, until

ODD = {
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kolkata'",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "idle_session_timeout": "'2s'",
    "search_path": "elsewhere, public",
    "standard_conforming_strings": "off",
}


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def not_utf8(servers: Servers, request: pytest.FixtureRequest):
    """The URL of an empty database with another encoding."""
    assert servers.database is not None
    name = f"test_{request.param.lower()}"
    with psycopg.connect(servers.database, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        yield urlsplit(servers.database)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_that_is_not_in_utf8_is_refused_before_anything_is_made(not_utf8: str):
    with pytest.raises(UnfitDatabase, match="ENCODING 'UTF8'"):
        migrate(not_utf8)
    with psycopg.connect(not_utf8) as connection:
        assert (
            connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchall()
            == []
        )


def test_an_installation_that_is_not_in_utf8_goes_on_with_a_warning(not_utf8: str, caplog: pytest.LogCaptureFixture):
    with psycopg.connect(not_utf8) as connection:
        connection.execute("CREATE TABLE schema_migrations (name text PRIMARY KEY)")
    caplog.set_level(logging.WARNING)
    assert migrate(not_utf8)
    assert "pg_restore" in caplog.text


def strange(installation: Installation) -> None:
    """An empty database with settings of its own."""
    empty(installation)
    with psycopg.connect(installation.settings.database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        # It is found before the service's own where the search path says so.
        connection.execute("CREATE TABLE elsewhere.outcomes (nothing text)")
        for name, value in ODD.items():
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {name} = {value}")


async def test_the_service_works_in_a_database_with_settings_of_its_own(installation: Installation):
    strange(installation)
    assert migrate(installation.settings.database)
    await works(installation)
    assert installation.query("SELECT count(*) FROM elsewhere.outcomes") == [(0,)]


async def test_an_installation_in_another_schema_goes_on(installation: Installation):
    """With the search path of its URL, and with the one of its database where the URL says nothing."""
    empty(installation)
    url = installation.settings.database
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA shop")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET search_path = '$user', shop, public")
    separator = "&" if "?" in url else "?"
    assert migrate(f"{url}{separator}options=-csearch_path%3Dshop")
    assert migrate(url) == []
    await works(installation)
    assert installation.query("SELECT to_regclass('public.order_events')") == [(None,)]


async def works(installation: Installation) -> None:
    claim_shards(installation.settings, PARTITIONS)
    installation.metrics_ports = {role: free_port() for role in ROLES}
    await installation.run(*ROLES, scale=86_400)  # 48 hours in 2 s
    for number in range(5):
        await installation.send(f"order-{number}", register())
        await installation.send(f"order-{number}", ask_update())
    await installation.until_quiet()
    await installation.until_projected()
    for port in installation.metrics_ports.values():
        await until(lambda port=port: ready(port))
    page = installation.page("order-1", CLIENT)
    assert page is not None
    assert (await findings(installation))["differences"] == []
    with installation.store() as store:
        rebuilt = Rebuild(store, "order_page").run(lambda _, __: None)
    assert (rebuilt.events, rebuilt.differences) == (15, [])


async def test_on_an_ordinary_database_no_setting_is_made(installation: Installation):
    url = installation.settings.database
    changed = "SELECT name FROM pg_settings WHERE source = 'session' ORDER BY name"
    with connect(url) as connection:
        assert connection.execute(changed).fetchall() == []
    async with await connect_async(url) as other:
        assert await (await other.execute(changed)).fetchall() == []
    with connect(url, answer_within=30) as connection:
        assert connection.execute(changed).fetchall() == [("idle_in_transaction_session_timeout",)]


def test_what_a_url_says_of_the_connection_wins(installation: Installation):
    url = installation.settings.database
    separator = "&" if "?" in url else "?"
    with connect(url) as connection:
        assert connection.info.get_parameters()["keepalives_idle"] == "5"
        assert connection.info.get_parameters()["tcp_user_timeout"] == "5000"
    with connect(f"{url}{separator}keepalives_idle=77&client_encoding=latin1") as connection:
        assert connection.info.get_parameters()["keepalives_idle"] == "77"
        assert connection.info.encoding == "utf-8"  # but not this: texts would be lost


def test_of_several_hosts_the_one_that_answers_is_taken(installation: Installation):
    parameters = conninfo_to_dict(installation.settings.database)
    host, port = parameters.pop("host"), parameters.pop("port", 5432)
    several = (
        f"postgresql://?{urlencode(parameters)}&host=127.0.0.1,{host}&port=1,{port}&target_session_attrs=read-write"
    )
    with connect(several) as connection, pool(several, min_size=1, max_size=1) as connections:
        assert connection.info.dbname == parameters["dbname"]
        with connections.connection() as one:
            assert one.info.dbname == parameters["dbname"]
    installation.settings = replace(installation.settings, database_url=several)
    with installation.store() as store:
        assert store.history("order-1") == []
