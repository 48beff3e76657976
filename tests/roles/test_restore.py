"""A database restored to an earlier moment than Kafka, and Kafka lost: nothing is repeated, nothing contradicted."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from services import cli
from services.eventstore.migrate import migrate
from services.judging.partitioner import partition_of
from services.kafka.relay_position import published
from services.kafka.topics import TopicError, ensure_topics
from services.relay.reconcile import Contradiction
from services.relay.renew_topics import NotRenewed
from services.relay.role import RelayRole
from tests.audit.test_ledger import ledger
from tests.audit.test_verify import findings
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.support.backups import back_up, empty, restore
from tests.support.commands import ask_cancellation, ask_update, register
from tests.support.installation import PARTITIONS, ROLES, Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

Json = dict[str, Any]
ORDER = "order-1"


# --- the database was restored ---


async def test_a_database_restored_to_an_earlier_moment_repeats_nothing_and_contradicts_nothing(
    installation: Installation, tmp_path: Path, seed: int
):
    """A backup is taken under load, and put back while what was published since is more than what is to come."""
    await installation.run(scale=FAST)
    async with under_load(installation, random.Random(seed), per_second=150):
        await asyncio.sleep(2)
        await back_up(installation, tmp_path / "backup")
        await asyncio.sleep(2)
    await installation.until_published()
    before = await published(installation.settings.cluster, installation.topics)
    await installation.stop()
    await restore(installation, tmp_path / "backup")
    assert installation.query("SELECT max(outcome_id) FROM outcomes")[0][0] < before.outcome_id
    async with under_load(installation, random.Random(seed + 1000), per_second=150):
        await installation.run()
        await asyncio.sleep(1)
    await assert_nothing_lost_and_nothing_twice(installation)
    await installation.until_projected()
    after = await published(installation.settings.cluster, installation.topics)
    assert after.timeline != before.timeline
    assert after.outcome_id > before.outcome_id
    assert (await findings(installation))["differences"] == []
    assert (await ledger(installation))["differences"] == []


async def test_an_empty_database_is_filled_from_the_topics_and_publishes_nothing_again(installation: Installation):
    async with installation.here("commands", "relay"):
        await a_few(installation)
    empty(installation)
    migrate(installation.settings.database)
    async with installation.here("commands", "relay"):
        await installation.send(ORDER, ask_cancellation())
    assert await assert_as_the_oracle_says(installation) == 5


async def test_a_relay_that_is_killed_while_it_compares_begins_again(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After what is new was published, and before the position in the new timeline was."""
    async with installation.here("commands", "relay"):
        await a_few(installation)
        await back_up(installation, tmp_path / "backup")
        await installation.publish(ORDER, ask_cancellation())
        await installation.until_published()
    await restore(installation, tmp_path / "backup")
    await installation.publish("order-3", register())
    send = RelayRole._send

    async def dying(role: RelayRole, records: Any, after: Any) -> None:
        if after is not None:
            raise SystemError("killed")
        await send(role, records, after)

    async with installation.here("commands"):
        await until(lambda: judged(installation) == 6)
        with monkeypatch.context() as patch:
            patch.setattr(RelayRole, "_send", dying)
            with pytest.raises(SystemError):
                await relay(installation)
        await installation.until_published()
        async with installation.here("relay"):
            await installation.send(ORDER, ask_cancellation())
    await assert_as_the_oracle_says(installation)


async def test_commands_that_were_lost_meanwhile_are_noticed(installation: Installation, tmp_path: Path):
    """What was published about them cannot happen again, and what happens instead contradicts it."""
    async with installation.here("commands", "relay"):
        await a_few(installation)
        await back_up(installation, tmp_path / "backup")
        await installation.send("order-2", ask_update())
    await restore(installation, tmp_path / "backup")
    await lose_commands(installation, "order-2")
    ends = await installation.events(), await installation.outcomes()
    async with installation.here("commands"):
        with pytest.raises(Contradiction, match=r"events/\d offset \d+ follows from none of the commands"):
            await relay(installation)
        await installation.publish("order-2", ask_cancellation())
        await until(lambda: judged(installation) == 5)
        with pytest.raises(Contradiction, match="is not what the restored store brings out for it"):
            await relay(installation)
    assert (await installation.events(), await installation.outcomes()) == ends


async def test_a_store_whose_published_records_have_expired_cannot_be_compared(
    installation: Installation, tmp_path: Path
):
    async with installation.here("commands", "relay"):
        await a_few(installation)
        await back_up(installation, tmp_path / "backup")
        await installation.send(ORDER, ask_update())
        await installation.send(ORDER, ask_update())
    await restore(installation, tmp_path / "backup")
    await delete_records(installation, installation.topics.outcomes, ORDER)
    with pytest.raises(Contradiction, match="has expired and cannot be compared"):
        await relay(installation)


async def test_what_is_to_come_out_of_a_parked_order_is_waited_for(
    installation: Installation, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with installation.here("commands", "relay"):
        await a_few(installation)
        await back_up(installation, tmp_path / "backup")
        await installation.send("order-2", ask_update())
    await restore(installation, tmp_path / "backup")
    installation.query("UPDATE order_events SET topic = 'FromALaterVersion' WHERE originator_id = 'order-2'")
    async with installation.here("commands"):
        await until(lambda: installation.query("SELECT count(*) FROM parked_commands") == [(1,)])
        await installation.publish(ORDER, ask_cancellation())
        await until(lambda: judged(installation) == 5)
        comparing = asyncio.create_task(relay(installation))
        try:
            await until(lambda: "retry these (resolution parked retry)" in caplog.text)
            assert len(await installation.outcomes()) == 5  # nothing is out that was not before
            installation.query("UPDATE order_events SET topic = 'OrderRegistered' WHERE originator_id = 'order-2'")
            result = await asyncio.to_thread(invoke, installation, "parked", "retry", "order-2")
            assert "is free again" in result.output
            await installation.until_published()
        finally:
            comparing.cancel()
            await asyncio.wait([comparing])
    await assert_as_the_oracle_says(installation)


async def test_a_reminder_that_went_out_does_not_go_out_again(installation: Installation, tmp_path: Path):
    """Two reminders were published, one of them since the backup. After the restore a third takes its number."""
    async with installation.here("commands", "relay"):
        await a_few(installation)
        decide_reminder(installation, 1, "one")
        await until(lambda: reminders(installation, 1))
        await until(lambda: installation.query("SELECT published IS NOT NULL FROM publishing") == [(True,)])
        await back_up(installation, tmp_path / "backup")
        decide_reminder(installation, 2, "two")
        await until(lambda: reminders(installation, 2))
    await restore(installation, tmp_path / "backup")
    decide_reminder(installation, 2, "three")
    decide_reminder(installation, 3, "two")
    async with installation.here("commands", "relay"):
        await until(lambda: reminders(installation, 3))
        await installation.send(ORDER, ask_update())
    told = [json.loads(record.value or b"") for record in await installation.read(installation.topics.notifications)]
    assert [reminder["data"]["dispute_id"] for reminder in told] == ["one", "two", "three"]
    assert installation.query("SELECT dispute_id FROM notifications ORDER BY notification_id") == [
        ("one",), ("two",), ("three",)
    ]  # fmt: skip


# --- Kafka was lost ---


async def test_a_database_goes_on_with_new_topics_when_kafka_is_lost(installation: Installation):
    async with installation.here(*ROLES):
        await a_few(installation)
        known = await installation.publish(ORDER, ask_update())
        await installation.until_published()
        decide_reminder(installation, 1, "one")
        await until(lambda: reminders(installation, 1))
        await until(lambda: timer_has_read_something(installation))
        refused = await asyncio.to_thread(invoke, installation, "renew-topics")
        assert isinstance(refused.exception, NotRenewed)
    events, outcomes = await installation.events(), await installation.outcomes()
    await lose_topics(installation)

    refused = await asyncio.to_thread(invoke, installation, "serve", "commands")
    assert isinstance(refused.exception, TopicError)
    assert "renew-topics" in str(refused.exception)
    # Senders do not wait: more records than were ever read of the lost topic's partition.
    for _ in range(9):
        await installation.publish(ORDER, ask_update(), id=known)
    await installation.publish("order-4", register())
    with pytest.raises(RuntimeError, match="Kafka has lost what it had"):
        await relay(installation)

    renewed = await asyncio.to_thread(invoke, installation, "renew-topics")
    assert renewed.exit_code == 0, renewed.exception
    again = await asyncio.to_thread(invoke, installation, "renew-topics")
    assert isinstance(again.exception, NotRenewed)
    async with installation.here("relay"):
        await until(lambda: published_again(installation, len(outcomes)))
        async with installation.here("commands", "timer", "projections"):
            await until(lambda: published_again(installation, len(outcomes) + 10))
            await installation.until_projected()
            await until(lambda: timer_has_read_something(installation))
    assert await installation.events(ORDER) == [event for event in events if event["subject"] == ORDER]
    repeats = [o for o in await installation.outcomes() if o["data"].get("duplicate")]
    assert [o["data"]["command_id"] for o in repeats] == [known] * 9
    assert len(await installation.events("order-4")) == 1
    assert await installation.read(installation.topics.notifications) == []
    assert (await findings(installation))["differences"] == []
    accounts = await ledger(installation)
    assert accounts["differences"] == []
    assert sum(account["expired"] for account in accounts["partitions"]) == len(outcomes)
    judged_again = await asyncio.to_thread(invoke, installation, "verify", "--from-commands")
    assert "renewed" in str(judged_again.exception)


async def test_new_topics_with_another_number_of_partitions_are_refused(installation: Installation):
    async with installation.here("commands", "relay"):
        await a_few(installation)
    installation.query("UPDATE shard SET partitions = 12")
    await lose_topics(installation)
    refused = await asyncio.to_thread(invoke, installation, "renew-topics")
    assert isinstance(refused.exception, TopicError)
    assert f"{installation.topics.commands} has {PARTITIONS} partitions" in str(refused.exception)
    assert "but the database knows 12" in str(refused.exception)


# --- what tests do ---


async def a_few(installation: Installation) -> None:
    """Four commands of two orders, published."""
    for order_id in (ORDER, "order-2"):
        await installation.publish(order_id, register())
    await installation.publish(ORDER, ask_update())
    await installation.publish(ORDER, ask_update())
    await installation.until_published()
    await until(lambda: noted(installation) == 4)


def noted(installation: Installation) -> int:
    [(position,)] = installation.query("SELECT published FROM publishing")
    return json.loads(position)["outcome_id"] if position else 0


def timer_has_read_something(installation: Installation) -> bool:
    [(offsets,)] = installation.query("SELECT sum(next_offset) FROM positions WHERE consumer = 'timer'")
    return bool(offsets)


def judged(installation: Installation) -> int:
    return int(installation.query("SELECT count(*) FROM outcomes")[0][0])


async def relay(installation: Installation) -> None:
    """The relay, here, until it fails."""
    settings = installation.settings
    await RelayRole(settings.cluster, installation.topics, settings.database, settings.master_keys).run(asyncio.Event())


def invoke(installation: Installation, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments), env=installation.settings.as_environment())


async def lose_commands(installation: Installation, order_id: str) -> None:
    await delete_records(installation, installation.topics.commands, order_id)


async def delete_records(installation: Installation, topic: str, order_id: str) -> None:
    """All that an order's partition has."""
    where = TopicPartition(topic, partition_of(order_id.encode(), PARTITIONS))
    async with admin(installation) as client:
        await client.delete_records({where: RecordsToDelete(before_offset=-1)})


async def lose_topics(installation: Installation) -> None:
    """Topics of the same names, new and empty, as a new cluster has them once the service has been started on it."""
    topics = installation.topics
    async with admin(installation) as client:
        names = topics.names()
        await client.delete_topics(names)

        async def gone() -> bool:
            return not set(names) & set(await client.list_topics())

        await until(gone)
    await ensure_topics(installation.settings.cluster, topics)


@asynccontextmanager
async def admin(installation: Installation) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def published_again(installation: Installation, outcomes: int) -> bool:
    return len(await installation.outcomes()) == outcomes


def decide_reminder(installation: Installation, number: int, dispute_id: str) -> None:
    message = {"subject": ORDER, "data": {"dispute_id": dispute_id, "hours_before": 24}}
    installation.query(
        "INSERT INTO notifications VALUES (%s, %s, %s, 24, %s); ",
        (number, ORDER, dispute_id, json.dumps(message).encode()),
    )
    installation.query("SELECT pg_notify('order_events', '')")


async def reminders(installation: Installation, count: int) -> bool:
    return len(await installation.read(installation.topics.notifications)) == count
