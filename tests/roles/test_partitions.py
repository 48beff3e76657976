"""The number of partitions is the database's: topics with another one are refused, and added partitions change nothing."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from services.judging.partitioner import partition_of
from services.kafka.topics import TopicError
from services.runtime.installation import prepare
from services.runtime.supervisor import Supervisor
from services.shards.arithmetic import Shard
from tests.observability.prometheus import free_port
from tests.support.commands import ask_update, register
from tests.support.installation import PARTITIONS, Installation, until

MORE = PARTITIONS + 4
STAYS = next(f"stays-{n}" for n in range(99) if partition_of(f"stays-{n}".encode(), MORE) < PARTITIONS)
MOVES = next(f"moves-{n}" for n in range(99) if partition_of(f"moves-{n}".encode(), MORE) >= PARTITIONS)
"""Orders whose partition is an old one, or an added one, by a sender that counts the added ones."""


async def add_partitions(installation: Installation, *names: str) -> None:
    """To these topics, by default to all: four more."""
    topics, number = installation.topics, (installation.topics.shard.total or 0) + 4
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await admin.start()
    try:
        await admin.create_partitions({name: NewPartitions(number) for name in names or dict(topics.settings())})
    finally:
        await admin.close()


@pytest.mark.parametrize("which", ["all", "commands"])
async def test_topics_with_added_partitions_are_refused_at_start(installation: Installation, which: str):
    await asyncio.to_thread(prepare, installation.settings)
    await add_partitions(installation, *([] if which == "all" else [installation.topics.commands]))
    with pytest.raises(TopicError) as refused:
        await asyncio.to_thread(prepare, installation.settings)
    assert f"{installation.topics.commands} has {MORE} partitions" in str(refused.value)
    assert f"the database knows {PARTITIONS}" in str(refused.value)
    assert "renew-topics" in str(refused.value)


async def test_a_database_of_an_earlier_version_learns_the_number_at_its_first_start(installation: Installation):
    installation.query("UPDATE shard SET partitions = NULL")
    await asyncio.to_thread(prepare, installation.settings)
    assert installation.query("SELECT partitions FROM shard") == [(PARTITIONS,)]


async def test_it_does_not_learn_a_number_that_is_not_the_one_it_was_filled_with(installation: Installation):
    await installation.run("commands")
    await installation.publish(STAYS, register())
    await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(1,)])
    await installation.stop()
    installation.query("UPDATE shard SET partitions = NULL")
    await add_partitions(installation)
    with pytest.raises(TopicError, match=f"the database knows {PARTITIONS}"):
        await asyncio.to_thread(prepare, installation.settings)


async def test_missing_topics_are_created_with_the_number_that_the_database_knows(installation: Installation):
    installation.query("UPDATE shard SET partitions = 3")
    elsewhere = replace(installation.settings, topic_prefix=f"{installation.settings.topic_prefix}new.")
    await asyncio.to_thread(prepare, elsewhere)
    assert installation.query("SELECT partitions FROM shard") == [(3,)]
    with pytest.raises(TopicError, match=rf"has {PARTITIONS} partitions, .*knows 3"):
        await asyncio.to_thread(prepare, installation.settings)


async def test_roles_go_on_with_the_partitions_they_know(installation: Installation, caplog: pytest.LogCaptureFixture):
    """A sender puts commands into an added partition. Nothing is judged from it, and all others are answered."""
    async with installation.here("commands", "relay", "timer"):
        await installation.send(STAYS, register())
        await add_partitions(installation)
        with caplog.at_level(logging.ERROR, "services"):
            await until(lambda: "added partitions are not read" in caplog.text, 30)
        await installation.publish_raw(MOVES.encode(), b"{}", partition=MORE - 1)
        await installation.send(STAYS, ask_update())
        await asyncio.sleep(5)  # the consumers fetch, and the relay notes how far it is
        await installation.send(STAYS, ask_update())
        assert installation.query("SELECT FROM outcomes WHERE partition >= %s", (PARTITIONS,)) == []
        assert installation.query("SELECT FROM positions WHERE partition >= %s", (PARTITIONS,)) == []


async def test_added_partitions_are_told_by_readiness_and_a_metric(installation: Installation):
    ports = {"commands": free_port(), "http": free_port()}
    installation.supervisor = Supervisor(installation.settings, ports)
    await installation.run("commands", "relay", "projections", "http")
    async with httpx.AsyncClient() as client:

        async def ready(role: str) -> httpx.Response:
            return await client.get(f"http://127.0.0.1:{ports[role]}/health/ready")

        await until(lambda: _is_ok(ready("commands")))
        await add_partitions(installation, installation.topics.commands)
        await until(lambda: _is_ok(ready("commands"), status=503), 30)
        why = (await ready("commands")).json()["why"]
        assert f"{installation.topics.commands} has {MORE} partitions, but the database knows {PARTITIONS}" in why
        assert (await ready("http")).status_code == 200
        metric = f'resolution_added_partitions{{topic="{installation.topics.commands}"}} 4.0'
        await until(lambda: _has(client.get(f"http://127.0.0.1:{ports['http']}/metrics"), metric))


async def _has(answer: Any, text: str) -> bool:
    return text in (await answer).text


async def _is_ok(answer: Any, status: int = 200) -> bool:
    return (await answer).status_code == status


def test_a_shard_has_no_partition_that_was_added():
    assert [number for number in range(MORE) if Shard(1, 2, total=PARTITIONS).has(number)] == [1, 3]
    assert Shard(1, 2, total=PARTITIONS) == Shard(1, 2)
