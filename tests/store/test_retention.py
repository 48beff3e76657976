"""Outcomes by months: a month that begins, command ids of earlier months, and months that are retired."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from resolution_contracts import Accept, CommandEnvelope, RecordDelivery

from services.eventstore.append import Batch
from services.judging.partitioner import partition_of
from services.kafka.read_topics import Ends, extents
from services.retention.months import MonthBegan, months_kept
from tests.audit.test_ledger import ledger
from tests.audit.test_verify import findings
from tests.roles.test_restore import admin, invoke, judged, lose_topics, published_again, timer_has_read_something
from tests.store.test_store import row
from tests.support.commands import FREELANCER, ask_update, register
from tests.support.installation import PARTITIONS, Installation, until

ORDER, OTHER, LATER = "order-1", "order-2", "order-3"


# --- a month begins ---


async def test_a_command_id_is_known_in_the_month_after(installation: Installation):
    """Also by a role that has the order at hand, and at the moment at which the month begins."""
    await installation.run()
    await installation.send(ORDER, register())
    asked = str(uuid4())
    first = await installation.send(ORDER, ask_update(), id=asked)
    begin_next_month(installation)
    again = await installation.send(ORDER, ask_update(), id=asked)
    assert again["data"] == first["data"] | {"duplicate": True}
    refused = await installation.send(ORDER, RecordDelivery(), id=asked)
    assert refused["data"]["code"] == "command_id_reused"
    assert (await installation.send(ORDER, ask_update()))["data"]["code"] == "dispute_open"
    assert len(await installation.events(ORDER)) == 2
    assert installation.query("SELECT count(DISTINCT month) FROM outcomes") == [(2,)]
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []
    assert (await ledger(installation))["differences"] == []


def test_what_was_judged_for_another_month_is_not_written(installation: Installation):
    with installation.store() as store:
        months = store.months()
        assert not months.others
        store.append([], Batch({}, [row(0)], month=months.newest))
        begin_next_month(installation)
        with pytest.raises(MonthBegan):
            store.append([], Batch({}, [row(1)], month=months.newest))
        assert store.with_earlier_commands(["o", "p"], store.months().newest) == {"o"}
        assert store.months().others
        store.append([], Batch({}, [row(1, "d")], month=store.months().newest))
    assert installation.query("SELECT outcome_id, month - newest_month() FROM outcomes ORDER BY 1") == [
        (1, (months.newest - installation.query("SELECT newest_month()")[0][0]).days),
        (2, 0),
    ]


def test_a_role_of_the_version_before_writes_to_the_newest_month(installation: Installation):
    months_pass(installation, 2)
    installation.query(
        "INSERT INTO outcomes (outcome_id, partition, record_offset, kind, order_id, command_id, digest, source, "
        "last_event_id) VALUES (1, 0, 0, 'accepted', 'o', 'c', '', '', 0)"
    )
    assert installation.query("SELECT month = newest_month() FROM outcomes") == [(True,)]


# --- a month is retired ---


@dataclass
class Old:
    """What was done more than a year ago. `accepted`: the id of a command that made an event; `rejected`: of one that did
    not, for `OTHER`. `ends`: where the topics ended then."""

    accepted: str
    rejected: str
    ends: Ends


WRONG = Accept(actor=FREELANCER, dispute_id="none")


async def a_year_ago(installation: Installation) -> Old:
    """Commands of two orders; and one of this month, of a third."""
    await installation.run()
    for order_id in (ORDER, OTHER):
        await installation.publish(order_id, register())
    accepted = await installation.publish(ORDER, ask_update())
    rejected = await installation.publish(OTHER, WRONG)
    await installation.until_published()
    await installation.until_projected()
    await installation.stop("commands", "relay", "timer", "projections")
    ends = await ends_of(installation)
    months_pass(installation, 14)
    async with installation.here("commands", "relay"):
        await installation.send("order-0", WRONG)
    return Old(accepted, rejected, ends)


async def test_an_old_month_is_retired_and_everything_holds(installation: Installation):
    """Commands that changed an order are known for ever; others are judged again. Auditors find nothing wrong."""
    old = await a_year_ago(installation)
    await installation.run()
    late = await installation.send(ORDER, WRONG, id=old.accepted)
    assert late["data"]["code"] == "command_id_reused"
    repeated = await installation.send(OTHER, WRONG, id=old.rejected)
    assert repeated["data"]["duplicate"]
    await forget_on_kafka(installation, old.ends)
    await assert_retired(installation)

    events = await installation.events()
    again = await installation.send(ORDER, ask_update(), id=old.accepted)
    assert again["data"]["code"] == "command_id_reused"
    assert "order page" in again["data"]["message"]
    assert await installation.events() == events
    anew = await installation.send(OTHER, WRONG, id=old.rejected)
    assert anew["data"]["code"] == repeated["data"]["code"] == "dispute_unknown"
    assert "duplicate" not in anew["data"]
    await installation.send(LATER, register())
    await installation.until_projected()

    found = await findings(installation)
    assert found["differences"] == []
    assert found["retired"] == 3
    assert (await ledger(installation))["differences"] == []
    replayed = invoke(installation, "replay", ORDER, "--json")
    causes = [json.loads(line)["cause"] for line in replayed.stdout.splitlines()]
    assert [cause["command"] for cause in causes] == [None, None]


async def test_what_is_changed_in_a_retired_month_is_found(installation: Installation):
    old = await a_year_ago(installation)
    await forget_on_kafka(installation, old.ends)
    await assert_retired(installation)
    installation.query("DELETE FROM order_events WHERE notification_id = 2")
    found = await findings(installation)
    assert any("has no notification_id 2" in sentence for sentence in found["differences"])
    assert any("follows from nothing that is stored" in sentence for sentence in found["differences"])


async def test_new_topics_get_the_events_of_retired_months_as_well(installation: Installation):
    old = await a_year_ago(installation)
    events = await installation.events()
    await forget_on_kafka(installation, old.ends)
    await assert_retired(installation)
    await lose_topics(installation)
    renewed = await asyncio.to_thread(invoke, installation, "renew-topics")
    assert renewed.exit_code == 0, renewed.exception
    async with installation.here("relay"):
        await until(lambda: published_again(installation, 1))
    for order_id in (ORDER, OTHER):
        assert await installation.events(order_id) == [event for event in events if event["subject"] == order_id]
    await installation.run("projections", "timer")
    await installation.until_projected()
    await until(lambda: timer_has_read_something(installation))
    assert (await findings(installation))["differences"] == []


async def test_a_month_stays_as_long_as_somebody_needs_it(installation: Installation):
    """It has the last number, it was not published, its records are on Kafka, a dead letter waits, somebody reads it."""
    await installation.run("commands")
    await installation.publish(ORDER, register())
    await installation.publish_raw(ORDER.encode(), b"garbage")
    await until(lambda: judged(installation) == 2)
    await installation.stop("commands")
    assert "No month is so old" in (await retire(installation)).output
    months_pass(installation, 14)
    assert "numbers go on from its last one" in (await retire(installation)).output
    await installation.run("commands")
    await installation.publish(OTHER, register())
    await until(lambda: judged(installation) == 3)
    assert "the relay has not published" in (await retire(installation)).output
    await installation.run("relay")
    await installation.until_published()
    ends = await ends_of(installation)
    for topic in (installation.topics.commands, installation.topics.outcomes, installation.topics.dead_letters):
        assert f"are on {topic}: they go with the topic's retention" in (await retire(installation)).output
        await forget_on_kafka(installation, {topic: ends[topic]})
    refused = await retire(installation)
    assert refused.exit_code == 1
    assert "1 dead letters of it were not handled" in refused.output
    installation.query(
        "INSERT INTO handled_dead_letters SELECT partition, record_offset, 'discarded', '', now() - interval '2 years' "
        "FROM outcomes WHERE kind = 'dead'"
    )
    assert "would be retired" in (await retire(installation, "--check")).output
    assert months_of(installation) == 2
    with months_kept(installation.settings.database):
        waiting = asyncio.create_task(retire(installation))
        await asyncio.sleep(1.5)
        assert not waiting.done()
    assert (await waiting).exit_code == 0
    assert months_of(installation) == 1
    assert installation.query("SELECT count(*) FROM handled_dead_letters") == [(0,)]


async def test_a_month_with_commands_in_a_strange_partition_stays(installation: Installation):
    envelope = CommandEnvelope.of(ORDER, register(), source="/tests")
    strange = (partition_of(envelope.key, PARTITIONS) + 1) % PARTITIONS
    await installation.publish_raw(envelope.key, envelope.to_json(), partition=strange)
    async with installation.earlier_here("commands", "relay"):
        await installation.until_published()
    await installation.run("relay")
    ends = await ends_of(installation)
    months_pass(installation, 14)
    await installation.run("commands")
    await installation.send(LATER, register())
    await forget_on_kafka(installation, ends)
    refused = await retire(installation)
    assert refused.exit_code == 1
    assert "Kafka's own partitioner" in refused.output


# --- what tests do ---


def begin_next_month(installation: Installation) -> None:
    installation.query("SELECT add_month((newest_month() + interval '1 month')::date)")


def months_pass(installation: Installation, count: int) -> None:
    """As if everything so far had happened so many months earlier. The commands role may not run."""
    with psycopg.connect(installation.settings.database) as connection:
        for (month,) in connection.execute("SELECT month FROM outcome_months ORDER BY 1").fetchall():
            [(to,)] = connection.execute("SELECT (%s - make_interval(months => %s))::date", (month, count)).fetchall()
            old, new = f"outcomes_{month:%Y_%m}", f"outcomes_{to:%Y_%m}"
            for statement in (
                f"ALTER TABLE outcomes DETACH PARTITION {old}",
                f"ALTER TABLE {old} DROP CONSTRAINT outcomes_month_check",
                f"ALTER TABLE {old} RENAME TO {new}",
                f"UPDATE {new} SET month = '{to}'",
                f"ALTER TABLE outcomes ATTACH PARTITION {new} FOR VALUES FROM ('{to}') TO ('{to}'::date + '1 month'::interval)",
                f"UPDATE outcome_months SET month = '{to}' WHERE month = '{month}'",
            ):
                connection.execute(statement.encode())


def months_of(installation: Installation) -> int:
    [(count,)] = installation.query("SELECT count(*) FROM pg_inherits WHERE inhparent = 'outcomes'::regclass")
    return int(count)


async def retire(installation: Installation, *options: str) -> Any:
    return await asyncio.to_thread(invoke, installation, "retire-outcomes", "--older-than", "12", *options)


async def assert_retired(installation: Installation) -> None:
    result = await retire(installation)
    assert result.exit_code == 0, result.output
    assert "is retired" in result.output, result.output
    assert months_of(installation) == 1


async def ends_of(installation: Installation) -> Ends:
    """Of the topics that keep a month's outcomes."""
    topics = installation.topics
    _, ends = await extents(
        installation.settings.cluster, (topics.commands, topics.outcomes, topics.dead_letters), PARTITIONS
    )
    return ends


async def forget_on_kafka(installation: Installation, ends: Ends) -> None:
    """As retention does."""
    before = {
        TopicPartition(topic, partition): RecordsToDelete(before_offset=end)
        for topic, offsets in ends.items()
        for partition, end in offsets.items()
    }
    async with admin(installation) as client:
        await client.delete_records(before)
