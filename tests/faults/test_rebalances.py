"""Two copies of each role, and members that come and go: everything is written once."""

import asyncio
import random

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.load import publish
from services.kafka.topics import count_partitions
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.support.commands import ask_update, register, register_under_some_terms
from tests.support.installation import Installation
from tests.support.judgement_day import assert_as_the_oracle_says


@pytest.mark.long
async def test_two_copies_of_every_role_write_everything_once(installation: Installation, seed: int):
    await installation.run(scale=FAST)
    second = Installation(installation.settings)
    try:
        async with under_load(installation, random.Random(seed), per_second=200):
            await second.run("commands", "timer", "projections")
            await asyncio.sleep(3)
            await second.stop("commands")
            await asyncio.sleep(1)
        await assert_nothing_lost_and_nothing_twice(installation)
    finally:
        await second.stop()


async def test_members_that_join_and_leave_under_load_change_nothing(installation: Installation, seed: int):
    dice = random.Random(seed)
    await installation.run(scale=FAST)
    others = [Installation(installation.settings) for _ in range(2)]
    try:
        async with under_load(installation, dice, per_second=150):
            for _ in range(4):
                other = dice.choice(others)
                role = dice.choice(["commands", "timer"])
                await (other.stop(role) if other.supervisor.pid(role) else other.run(role))
                await asyncio.sleep(dice.random())
        await assert_nothing_lost_and_nothing_twice(installation)
    finally:
        await asyncio.gather(*(other.stop() for other in others))


async def test_a_second_relay_fences_the_first(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    second = Installation(installation.settings)
    await second.run("relay")
    try:
        for _ in range(20):
            await installation.publish("order-1", ask_update())
            await asyncio.sleep(0.05)
        await installation.until_published()
        await assert_as_the_oracle_says(installation)
    finally:
        await second.stop()


@pytest.mark.parametrize("orders", [500, pytest.param(5_000, marks=pytest.mark.long)])
async def test_members_that_share_a_backlog_judge_all_of_it(installation: Installation, seed: int, orders: int):
    dice = random.Random(seed)
    commands = await publish(installation.settings.kafka, installation.topics.commands, orders)
    members = [Installation(installation.settings) for _ in range(2)]
    try:
        await asyncio.gather(*(member.run("commands") for member in (installation, *members)))
        for _ in range(orders // 500):
            member = dice.choice(members)
            await asyncio.sleep(dice.random())
            await (member.stop() if member.supervisor.pid("commands") else member.run("commands"))
        await installation.run("relay")
        await installation.until_published(120)
        assert await assert_as_the_oracle_says(installation) == commands
    finally:
        await asyncio.gather(*(member.stop() for member in members))


async def test_offsets_that_another_database_left_in_kafka_mean_nothing(installation: Installation):
    """The group's committed offsets are at the end of the topic, as if a run on another database had left them."""
    commands = await publish(installation.settings.kafka, installation.topics.commands, 100)
    await _commit_ends(installation)
    with psycopg.connect(installation.settings.database) as connection:
        # The role is assigned its partitions and cannot read its positions yet; meanwhile more commands come.
        connection.execute("LOCK TABLE positions")
        starting = asyncio.create_task(installation.run("commands"))
        for number in range(20):
            await installation.publish(f"late-{number}", register_under_some_terms(random.Random(number)))
            await asyncio.sleep(0.3)
    await starting
    await installation.run("relay")
    await installation.until_published()
    assert await assert_as_the_oracle_says(installation) == commands + 20


async def _commit_ends(installation: Installation) -> None:
    kafka, topic = installation.settings.kafka, installation.topics.commands
    partitions = [
        TopicPartition(topic, n)
        for n in range(await count_partitions(installation.settings.cluster, installation.topics))
    ]
    group = installation.settings.topic_prefix + "commands"
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.commit(await consumer.end_offsets(partitions))
    finally:
        await consumer.stop()
