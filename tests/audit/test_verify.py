"""`resolution verify` finds no differences while the service runs, and finds every change made on purpose."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from services import cli
from services.judging.partitioner import partition_of
from tests.faults.load import FAST, under_load
from tests.support.backups import copy_of
from tests.support.commands import ask_cancellation, ask_update, offer_refund, register
from tests.support.installation import PARTITIONS, Installation, until


async def findings(installation: Installation, *options: str) -> dict[str, Any]:
    environment = installation.settings.as_environment()
    arguments = ["verify", "--json", *options]
    result = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == bool(found["differences"])
    return found


async def test_nothing_differs_beside_a_live_service_and_the_next_one_goes_on(
    installation: Installation, tmp_path: Path
):
    await installation.run(scale=FAST)
    resume = ("--resume", str(tmp_path / "verified.json"))
    async with under_load(installation, random.Random(1), per_second=100):
        await asyncio.sleep(4)
        live = await findings(installation, *resume)
        assert live["differences"] == []
        await asyncio.sleep(1)
    await installation.until_quiet()
    await installation.until_projected()
    done = await findings(installation, *resume)
    whole = await findings(installation)
    assert done["differences"] == whole["differences"] == []
    assert 0 < live["outcomes"] < done["outcomes"] == whole["outcomes"]
    assert [(whole["outcomes"], whole["events"], whole["dead_letters"])] == installation.query(
        "SELECT count(*), max(last_event_id), count(*) FILTER (WHERE kind = 'dead') FROM outcomes"
    )
    assert whole["unpublished"] == whole["expired"] == 0
    assert whole["read_models"] > 100


ORDER, OTHER = "order-1", "order-2"


async def a_few(installation: Installation) -> None:
    """Two orders; one has an open dispute, the other a request that was refused, a repeat and a dead letter."""
    await installation.run()
    for order_id in (ORDER, OTHER):
        await installation.publish(order_id, register())
    await installation.publish(ORDER, ask_cancellation())
    offer = await installation.publish(OTHER, offer_refund(100))
    await installation.publish(OTHER, offer_refund(100), id=offer)
    await installation.publish(OTHER, ask_update())
    await installation.publish_raw(b"order-3", b"garbage")
    await installation.until_published()
    await installation.until_projected()
    await until(lambda: installation.query("SELECT count(*) FROM deadlines") == [(2,)])
    await installation.stop("commands", "relay", "timer", "projections")


_FLIPPED = "state = set_byte(state, position('{0}' IN convert_from(state, 'UTF8')) - 1, 57)"

TAMPERED = {
    "a bit flipped in an event": (
        "UPDATE order_events SET " + _FLIPPED.format("10000") + " WHERE notification_id = 1",
        ["event 1 is not what follows from its command", "read model"],
    ),
    "an event that cannot be read": (
        "UPDATE order_events SET state = 'x' WHERE originator_id = 'order-1' AND originator_version = 2",
        ["cannot be read"],
    ),
    "an event deleted": (
        "DELETE FROM order_events WHERE originator_id = 'order-1' AND originator_version = 2",
        ["order_events has no notification_id", "follows from nothing that is stored", "order_page: order order-1"],
    ),
    "two events exchanged": (
        "UPDATE order_events SET notification_id = -1 WHERE notification_id = 1; "
        "UPDATE order_events SET notification_id = 1 WHERE notification_id = 2; "
        "UPDATE order_events SET notification_id = 2 WHERE notification_id = -1",
        ["is not what follows from its command"],
    ),
    "an outcome changed": (
        "UPDATE outcomes SET message = message || ' ' WHERE kind = 'rejected'",
        ["is not what follows from its command: message", "is not what is stored"],
    ),
    "an outcome deleted": ("DELETE FROM outcomes WHERE kind = 'rejected'", ["follows from nothing that is stored", "has no outcome, and is not parked"]),
    "a sender changed": ("UPDATE outcomes SET source = '/mallory' WHERE outcome_id = 1", ["source"]),
    "a repeat made a first use": (
        "UPDATE outcomes SET digest = 'x' WHERE kind = 'repeated'", ["is not what follows from its command: digest"]
    ),
    "a dead letter changed": ("UPDATE outcomes SET message = 'x' WHERE kind = 'dead'", ["message"]),
    "a deadline deleted": ("DELETE FROM deadlines WHERE order_id = 'order-1'", ["has no deadline"]),
    "a deadline moved": (
        "UPDATE deadlines SET due_at = due_at + interval '1 hour' WHERE order_id = 'order-1'", ["not the one that it was opened"]
    ),
    "a deadline invented": (
        "INSERT INTO deadlines VALUES ('order-1', 'x', now(), 0, now())", ["which is not an open dispute"]
    ),
    "a page changed": (
        "UPDATE order_page.orders SET document = document || ' ' WHERE order_id = 'order-1'",
        ["read model order_page: order order-1 is not what its events give"],
    ),
    "a page deleted": ("DELETE FROM order_page.orders WHERE order_id = 'order-1'", ["order_page: order order-1"]),
    "a page invented": (
        "CREATE TEMPORARY TABLE one AS SELECT * FROM inbox.orders LIMIT 1; UPDATE one SET order_id = 'order-9'; "
        "INSERT INTO inbox.orders TABLE one", ["inbox: 1 rows belong to orders that do not exist"]
    ),
    "a count changed": ("UPDATE metrics.parties SET counts = counts || ' '", ["rows of parties"]),
    "a column changed": ("UPDATE overview.orders SET kind = 'duel' WHERE order_id = 'order-1'", ["overview: order order-1"]),
}  # fmt: skip


@pytest.mark.timeout(600)  # seventeen verifications
async def test_what_is_changed_on_purpose_is_found(installation: Installation, subtests: pytest.Subtests):
    await a_few(installation)
    assert (await findings(installation))["differences"] == []
    for name, (tamper, said) in TAMPERED.items():
        with subtests.test(name):
            with copy_of(installation) as copy:
                copy.query(tamper)
                found = (await findings(copy))["differences"]
            for sentence in said:
                assert any(sentence in difference for difference in found), found
            assert not any("USD" in difference or "10000" in difference for difference in found), "no values are told"


async def test_a_command_dropped_from_the_log_and_one_forged_on_a_topic_are_found(installation: Installation):
    await a_few(installation)
    await installation.publish_raw(b"order-1", b'{"id": "order-1:99"}', topic=installation.topics.events)
    places = installation.query(
        "SELECT partition, max(record_offset) FROM outcomes WHERE order_id = 'order-2' GROUP BY 1"
    )
    installation.query(
        "UPDATE outcomes SET record_offset = record_offset + 5 WHERE (partition, record_offset) = (%s, %s)", places[0]
    )
    found = (await findings(installation))["differences"]
    assert any("follows from nothing that is stored" in difference for difference in found)
    assert any("has no command: there is none at" in difference for difference in found)
    assert any("has no outcome, and is not parked" in difference for difference in found)


async def test_a_topic_whose_beginning_has_expired_is_accepted(installation: Installation):
    await a_few(installation)
    where = partition_of(b"order-2", PARTITIONS)
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await admin.start()
    try:
        for topic in (installation.topics.commands, installation.topics.outcomes):
            await admin.delete_records({TopicPartition(topic, where): RecordsToDelete(before_offset=2)})
    finally:
        await admin.close()
    found = await findings(installation)
    assert found["differences"] == []
    assert found["expired"] == 2
    installation.query(
        "UPDATE order_events SET originator_version = 7 WHERE originator_id = 'order-2' AND originator_version = 2"
    )
    assert (await findings(installation))["differences"]


async def test_a_file_of_another_kind_is_refused(installation: Installation, tmp_path: Path):
    await installation.run("commands")
    (tmp_path / "x").write_text("{}")
    with pytest.raises(Exception, match="Name another file"):
        await findings(installation, "--resume", str(tmp_path / "x"))


async def test_a_database_that_fell_back_since_is_not_gone_on_with(installation: Installation, tmp_path: Path):
    await a_few(installation)
    resume = ("--resume", str(tmp_path / "verified.json"))
    assert (await findings(installation, *resume))["differences"] == []
    installation.query("UPDATE order_events SET originator_id = 'order-9' WHERE notification_id = 3")
    with pytest.raises(Exception, match="with another file"):
        await findings(installation, *resume)


def test_what_cannot_go_on_is_not_asked_to():
    result = CliRunner().invoke(cli.app, ["verify", "--from-commands", "--resume", "x"])
    assert result.exit_code == 2
    assert "leave out --resume" in " ".join(result.output.replace("│", " ").split())
