"""deploy/postgres/roles.sql and services/eventstore/grants.sql on a real PostgreSQL that asks for TLS and passwords."""

import asyncio
import json
from collections.abc import Sequence

import psycopg
import pytest
from eventsourcing.persistence import OperationalError as StoreOperationalError
from psycopg.errors import InsufficientPrivilege

from projections import READ_MODELS
from projections.framework.projector import Projector
from services.eventstore.application import OrderStore
from services.eventstore.migrate import SchemaOutdated, migrate
from services.runtime.supervisor import Supervisor
from services.sealing.master_keys import MasterKeys

from .conftest import Guarded, Told

pytestmark = pytest.mark.timeout(400)  # the first of them starts the servers and the service

READ = {
    *("schema_migrations", "clock", "order_events", "outcomes", "positions", "deadlines", "parked_commands"),
    *("handled_dead_letters", "projection_tracking", "verifications"),
    *("master_keys", "publishing", "shard", "splits", "outcome_months"),
}
"""By everybody."""
MORE = {
    "service": {
        "SELECT": {"parking", "notifications", "checkpoints", "order_keys", "order_snapshots"},
        "INSERT": {
            *("order_events", "outcomes", "positions", "handled_dead_letters", "deadlines", "parked_commands"),
            *("order_keys", "master_keys", "notifications", "order_snapshots"),
        },
        "UPDATE": {
            *("positions", "handled_dead_letters", "deadlines", "parked_commands", "parking", "publishing"),
            "order_snapshots",
        },
        "DELETE": {"deadlines", "parked_commands", "notifications"},
    },
    "projections": {
        "SELECT": {"read_models", "notifications"},
        "INSERT": {"read_models", "projection_tracking", "notifications"},
        "UPDATE": {"read_models", "projection_tracking"},
        "DELETE": {"read_models", "projection_tracking"},
    },
    "http": {"SELECT": {"order_keys"}},
    "auditor": {
        "SELECT": {"parking", "notifications", "checkpoints", "read_models", "order_keys", "order_snapshots"},
        "INSERT": {"verifications"},
    },
}
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
CHANGES = (
    "UPDATE {} SET {} = {}",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "DROP TABLE {}",
    "ALTER TABLE {} DISABLE TRIGGER ALL",
    "CREATE RULE nothing AS ON INSERT TO {} DO INSTEAD NOTHING",
)
STORED = (("order_events", "state"), ("outcomes", "message"))


def execute(guarded: Guarded, role: str, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
    with psycopg.connect(guarded.postgres.url(role)) as connection:
        cursor = connection.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("role", ["service", "projections", "http", "auditor"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_role_changes_or_deletes_what_is_stored(told: Told, guarded: Guarded, role: str, change: str):
    for table, column in STORED:
        with pytest.raises(InsufficientPrivilege):
            execute(guarded, role, change.format(table, column, column))
    assert execute(guarded, role, "SELECT count(*) > 0 FROM order_events") == [(True,)]


@pytest.mark.parametrize("role", MORE)
def test_each_role_has_the_rights_that_are_listed_here_and_no_other(told: Told, guarded: Guarded, role: str):
    asked = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND has_table_privilege(oid, %s)"
    )
    for privilege in PRIVILEGES:
        held = {table for (table,) in execute(guarded, role, asked, (privilege,))}
        assert held == MORE[role].get(privilege, set()) | (READ if privilege == "SELECT" else set()), privilege


def test_the_service_begins_months_as_they_come_and_no_others(told: Told, guarded: Guarded):
    assert execute(guarded, "service", "SELECT append_month() = newest_month()") == [(True,)]
    with pytest.raises(InsufficientPrivilege):
        execute(guarded, "service", "SELECT add_month('2099-01-01')")
    for role in ("projections", "http", "auditor"):
        with pytest.raises(InsufficientPrivilege):
            execute(guarded, role, "SELECT append_month()")


async def test_the_owner_alone_retires_months(told: Told, guarded: Guarded):
    execute(guarded, "owner", "SELECT add_month('2020-01-01')")
    service, owner = guarded.as_user("service", "auditor"), guarded.as_user("owner", "resolution-owner")
    code, _, err = await guarded.run(service, "retire-outcomes", "--older-than", "12")
    assert code == 1
    assert "permission denied" in err
    code, out, err = await guarded.run(owner, "retire-outcomes", "--older-than", "12")
    assert code == 0, err
    assert "2020-01, 0 outcomes: is retired" in out


def test_the_service_erases_plain_texts_of_erased_orders_and_no_others(told: Told, guarded: Guarded):
    before = execute(guarded, "auditor", "SELECT state FROM order_events ORDER BY notification_id")
    execute(guarded, "service", "SELECT erase_plain_texts(ARRAY['order-1'])")
    assert execute(guarded, "auditor", "SELECT state FROM order_events ORDER BY notification_id") == before
    for role in ("projections", "http", "auditor"):
        with pytest.raises(InsufficientPrivilege):
            execute(guarded, role, "SELECT erase_plain_texts(ARRAY['order-1'])")
    asked = "SELECT proconfig FROM pg_proc WHERE proname = 'erase_plain_texts' AND prosecdef"
    assert execute(guarded, "service", asked) == [(["search_path=pg_catalog, public, pg_temp"],)]
    for role in ("owner", "service", "projections", "http", "auditor"):
        assert execute(guarded, role, "SHOW search_path") == [("public",)]


@pytest.mark.parametrize("role", ["service", "http", "auditor"])
def test_only_owner_and_projections_make_anything(told: Told, guarded: Guarded, role: str):
    for sql in ("CREATE TABLE public.mine ()", "CREATE SCHEMA mine", "CREATE TABLE order_page.mine ()"):
        with pytest.raises(InsufficientPrivilege):
            execute(guarded, role, sql)
    with pytest.raises(InsufficientPrivilege):
        execute(guarded, "projections", "CREATE TABLE public.mine ()")


def test_the_service_moves_the_mark_of_checkpoints_and_not_their_salt(told: Told, guarded: Guarded):
    execute(guarded, "service", "UPDATE checkpoints SET published = published, last_event_id = last_event_id")
    with pytest.raises(InsufficientPrivilege):
        execute(guarded, "service", "UPDATE checkpoints SET salt = ''")


@pytest.mark.parametrize("role", ["projections", "http"])
def test_whoever_only_watches_does_not_learn_the_salt_of_checkpoints(told: Told, guarded: Guarded, role: str):
    execute(guarded, role, "SELECT published, last_event_id FROM checkpoints")
    with pytest.raises(InsufficientPrivilege):
        execute(guarded, role, "SELECT salt FROM checkpoints")


@pytest.mark.parametrize("role", ["http", "auditor"])
def test_read_models_are_read_and_not_written(told: Told, guarded: Guarded, role: str):
    assert execute(guarded, role, "SELECT count(*) FROM order_page.orders") == [(2,)]
    with pytest.raises(InsufficientPrivilege):
        execute(guarded, role, "DELETE FROM order_page.orders")


async def test_auditors_verify_and_projections_rebuild_as_who_they_are(told: Told, guarded: Guarded):
    auditor, projections = guarded.as_user("auditor", "auditor"), guarded.as_user("projections", "resolution")
    verified, balanced, replayed, rebuilt = await asyncio.gather(
        guarded.run(auditor, "verify", "--json"),
        guarded.run(auditor, "ledger", "--json"),
        guarded.run(auditor, "replay", "order-1", "--json"),
        guarded.run(projections, "rebuild", "order_page"),
    )
    for code, out, err in (verified, balanced, replayed, rebuilt):
        assert code == 0, out + err
    assert json.loads(verified[1])["differences"] == []
    assert execute(guarded, "http", "SELECT count(*) FROM order_page.orders") == [(2,)]  # the new one is read as well
    code, _, err = await guarded.run(auditor, "rebuild", "order_page")
    assert code == 1
    assert "permission denied" in err


def test_whoever_may_not_migrate_is_told_who_does(guarded: Guarded):
    with psycopg.connect(guarded.admin, dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    guarded.postgres.add_roles(guarded.admin, "empty")
    with pytest.raises(SchemaOutdated, match="resolution migrate"):
        migrate(guarded.postgres.url("service", database="empty"))
    assert migrate(guarded.postgres.url("owner", database="empty"))
    assert migrate(guarded.postgres.url("service", database="empty")) == []
    with psycopg.connect(guarded.admin, dbname="empty", autocommit=True) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE name LIKE '0010%'")
    with pytest.raises(SchemaOutdated, match="lacks 0010_"):
        migrate(guarded.postgres.url("http", database="empty"))


def test_a_database_that_one_user_had_is_taken_over_with_what_is_in_it(guarded: Guarded):
    with psycopg.connect(guarded.admin, dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE used")
    administrator = f"{guarded.admin} dbname=used"
    migrate(administrator)
    with OrderStore(administrator, MasterKeys()) as store:
        for model in READ_MODELS.values():
            Projector(store, model()).prepare()
    guarded.postgres.add_roles(guarded.admin, "used")
    assert migrate(guarded.postgres.url("owner", database="used")) == []
    with OrderStore(guarded.postgres.url("projections", database="used"), MasterKeys()) as store:
        for model in READ_MODELS.values():
            Projector(store, model()).prepare()
            Projector(store, model()).catch_up()
    with psycopg.connect(guarded.postgres.url("http", database="used")) as connection:
        assert connection.execute("SELECT count(*) FROM order_page.orders").fetchone() == (0,)


def test_a_server_with_another_certificate_is_refused_by_every_way_in(
    told: Told, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
):
    url = guarded.postgres.url("service", authority=guarded.postgres.stranger.file)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(url)
    monkeypatch.setenv("POSTGRES_CONNECT_TIMEOUT", "1")
    with pytest.raises(StoreOperationalError), OrderStore(url, MasterKeys()):
        pass
    with OrderStore(guarded.postgres.url("service"), MasterKeys()) as store:
        assert store.order("order-1").version > 0
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        asyncio.run(psycopg.AsyncConnection.connect(url))


def test_a_connection_in_clear_is_refused(guarded: Guarded):
    url = guarded.postgres.url("service").replace("sslmode=verify-full", "sslmode=disable")
    with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
        psycopg.connect(url)


async def test_an_operator_erases_with_the_rights_of_the_service(told: Told, guarded: Guarded):
    operator = guarded.as_user("service", "resolution")
    supervisor = Supervisor(operator)
    supervisor.start("commands", "relay")
    try:
        await asyncio.wait_for(supervisor.ready(), 60)
        code, out, err = await guarded.run(operator, "erase", "order-2", "--timeout", "60")
    finally:
        await supervisor.stop()
    assert code == 0, err
    assert "order-2: the texts were erased" in out
    code, out, err = await guarded.run(guarded.as_user("auditor", "auditor"), "verify", "--json")
    assert code == 0, out + err
