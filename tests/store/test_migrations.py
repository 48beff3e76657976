"""From the first release's database, with its data and beside its code, to the current schema."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from projections.order_page import look
from services.embedded import Servers
from services.eventstore.database import connect
from services.eventstore.migrate import migrate
from tests.audit.test_verify import findings
from tests.roles.test_restore import admin, judged
from tests.store.first_release import FOLDER, FirstRelease, Json, decoded, lines
from tests.support.backups import empty
from tests.support.commands import register
from tests.support.installation import Installation, until
from tests.support.judgement_day import assert_own_terms_make_no_difference

ROOT = Path(__file__).parents[2]
MIGRATIONS = sorted(path.name for path in files("services.eventstore").joinpath("migrations").iterdir())


@pytest.fixture
async def first_release(servers: Servers) -> AsyncIterator[Installation]:
    """The installation as the first release left it: its topics and its database."""
    async with Installation.fresh(servers, partitions=8) as installation:
        await fill(installation)
        yield installation


async def fill(installation: Installation) -> None:
    await put_commands(installation)
    for kind in ("events", "outcomes", "dead_letters", "relay"):
        await publish(installation, lines(kind), getattr(installation.topics, kind))
    put_database(installation)
    # The marks of the transactions in which it published are not there again; the timer had read everything.
    read = [0] * 8
    for record in lines("events"):
        read[record["partition"]] += 1
    installation.query(
        "UPDATE public.positions SET next_offset = n FROM unnest(%s::bigint[]) WITH ORDINALITY AS r (n, place) "
        "WHERE consumer = 'timer' AND partition = place - 1",
        (read,),
    )


async def test_a_database_of_the_first_release_is_migrated_by_two_at_once_under_load(first_release: Installation):
    """The first release's commands role writes before, while and after that; then today's roles take over."""
    installation, url = first_release, first_release.settings.database
    [*appends] = lines("append")
    rest = iter(appends)
    write(url, islice(rest, len(appends) // 4))
    writing = asyncio.create_task(asyncio.to_thread(write, url, islice(rest, len(appends) // 2)))
    ran = await asyncio.gather(*(asyncio.to_thread(migrate, url) for _ in range(2)))
    await writing
    assert sorted(name for names in ran for name in names) == MIGRATIONS[1:]
    assert migrate(url) == []
    write(url, rest)
    assert judged(installation) == len(appends) + sum(1 for kind in ("outcomes", "dead_letters") for _ in lines(kind))
    stored = all_events(installation)

    await installation.run()
    await installation.send("order-90", register())
    await installation.send("order-91", register(terms={"response_hours": 24}))
    await installation.until_quiet()
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []
    assert stored < all_events(installation)
    versions = dict(installation.query("SELECT originator_id, max(originator_version) FROM order_events GROUP BY 1"))
    assert dict(installation.query("SELECT order_id, version FROM order_page.orders")) == versions
    terms = {order_id: terms_of(installation, order_id)["response_hours"] for order_id in versions}
    assert terms == dict.fromkeys(versions, 48) | {"order-91": 24}, "no order's terms changed (D20)"
    await assert_own_terms_make_no_difference(installation)


def test_a_table_that_is_in_use_for_long_is_not_waited_for(installation: Installation, monkeypatch: pytest.MonkeyPatch):
    """Everybody who comes after a migration that waits for a table waits as well."""
    monkeypatch.setattr(sys.modules[migrate.__module__], "_LOCK_TIMEOUT", "100ms")
    url = installation.settings.database
    put_database(installation)
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM outcomes")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            migrate(url)
    assert migrate(url)[-1] == MIGRATIONS[-1]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE outcomes DROP COLUMN source",
        "ALTER TABLE outcomes RENAME COLUMN source TO sender",
        "ALTER TABLE outcomes ALTER COLUMN partition TYPE bigint",
        "ALTER TABLE outcomes ALTER COLUMN traceparent SET NOT NULL",
        "ALTER TABLE outcomes ADD COLUMN shard integer NOT NULL",
        "ALTER TABLE outcomes RENAME TO fates",
        "DROP TABLE deadlines",
        "DROP FUNCTION begin_append()",
        "CREATE INDEX ON outcomes (source)",
    ],
)
def test_a_migration_that_would_break_the_release_before_is_refused(statement: str, tmp_path: Path):
    script = tmp_path / "0099_breaks.sql"
    script.write_text(f"{statement};\n")
    linter = Path(sys.executable).with_name("squawk")
    result = subprocess.run([linter, str(script)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout


def put_database(installation: Installation) -> None:
    """In the place of the installation's."""
    empty(installation)
    with psycopg.connect(installation.settings.database) as connection:
        connection.execute((FOLDER / "database.sql").read_bytes())


def write(url: str, appends: Iterable[Json]) -> None:
    """As its roles do: a transaction that fails has written nothing; it is done again, by a role that was started again.

    One failure is to be expected: `begin_append` has another result since 0002, and its prepared statement keeps the old.
    """
    old, failures = FirstRelease(url), 0
    for append in appends:
        try:
            old.read(append["order_id"])
            old.append(append)
        except psycopg.Error:
            failures += 1
            assert failures <= 2
            old.close()
            old = FirstRelease(url)
            old.append(append)
    old.close()


def terms_of(installation: Installation, order_id: str) -> Json:
    with connect(installation.settings.database) as connection:
        page = look(connection, installation.settings.master_keys, order_id, None, installation.clock.now())
    assert page is not None
    return dict(page["terms"])


def all_events(installation: Installation) -> set[tuple[Any, ...]]:
    return set(installation.query("SELECT originator_id, originator_version, topic, state FROM order_events"))


async def put_commands(installation: Installation) -> None:
    """The commands topic with the records and the times that it had."""
    topic = installation.topics.commands
    stamped_by_senders = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    async with admin(installation) as client:
        await client.delete_topics([topic])

        async def gone() -> bool:
            return topic not in await client.list_topics()

        await until(gone)
        await client.create_topics([NewTopic(topic, 8, 1, topic_configs=stamped_by_senders)])
        await publish(installation, lines("commands"), topic)
        await stamp(client, topic)


async def stamp(client: AIOKafkaAdminClient, topic: str) -> None:
    settings = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
    await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])


async def publish(installation: Installation, records: Iterable[Json], topic: str) -> None:
    for record in records:
        await installation.publish_raw(
            decoded(record["key"]),
            decoded(record["value"]),
            topic,
            partition=record["partition"],
            timestamp_ms=record["timestamp"],
            headers=[(name, decoded(value)) for name, value in record["headers"]],
        )
