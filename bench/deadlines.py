"""Measures how late AutoAccepted is, and how long 100,000 disputes take whose deadlines are at the same moment."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from resolution_contracts import CommandEnvelope, OpenDispute, OrderUpdateRequest

from bench.engine import percentiles, running
from bench.load import life
from services.kafka.topics import Topics
from services.runtime.installation import clock_of
from services.settings import Settings

_IN_5_SECONDS = Fraction(34_560)
_ALL = ("commands", "relay", "timer", "projections")
_48H_MS = 48 * 3600 * 1000


async def lateness(settings: Settings, disputes: int) -> dict[str, float]:
    """Returns milliseconds from a deadline's real instant until a `read_committed` consumer has AutoAccepted.

    The load is light. 48 hours pass in 5 s, so a millisecond of the broker's clock is 35 s of business time. All times
    are measured in real time.
    """
    settings = replace(settings, time_scale=_IN_5_SECONDS)
    async with running(settings, *_ALL) as supervisor:
        await supervisor.ready()
        clock, late = clock_of(settings), []
        async with _events(settings) as events, _producer(settings) as producer:
            publishing = asyncio.create_task(_open_slowly(producer, Topics(settings.topic_prefix), disputes))
            async for arrived, event in events:
                if event["type"] == "resolution.event.AutoAccepted.v1":
                    deadline = clock.real(datetime.fromisoformat(event["data"]["deadline"])).timestamp()
                    late.append((arrived - deadline) * 1000)
                    if len(late) == disputes:
                        break
            await publishing
    return percentiles(late)


async def _open_slowly(producer: AIOKafkaProducer, topics: Topics, disputes: int) -> None:
    for number in range(disputes):
        for envelope in _register_and_ask(f"late-{number}"):
            await producer.send_and_wait(topics.commands, key=envelope.key, value=envelope.to_json())
        await asyncio.sleep(0.04)


async def all_at_once(settings: Settings, disputes: int, seconds: int) -> dict[str, float]:
    """Returns seconds from the moment at which all disputes are due until the last AutoAccepted is on Kafka.

    The commands topic uses CreateTime here, and all commands have the same timestamp, 48 hours before a moment that is
    `seconds` ahead. So all disputes are due in the same millisecond.
    """
    topics = Topics(settings.topic_prefix)
    async with running(settings, *_ALL) as supervisor:
        await supervisor.ready()
        await _let_senders_set_the_time(settings, topics)
        due = time.time() + seconds
        async with _events(settings) as events, _producer(settings) as producer:
            pending = []
            for number in range(disputes):
                for envelope in _register_and_ask(f"due-{number}"):
                    at = int(due * 1000) - _48H_MS
                    pending.append(
                        await producer.send(
                            topics.commands, key=envelope.key, value=envelope.to_json(), timestamp_ms=at
                        )
                    )
            await asyncio.gather(*pending)
            await _until_kept(settings, disputes)
            spare = due - time.time()
            assert spare > 0, f"the deadlines were kept {-spare:.0f} s too late: give it more seconds"
            settled = 0
            async for arrived, event in events:
                settled += event["type"] == "resolution.event.AutoAccepted.v1"
                if settled == disputes:
                    return {"seconds": arrived - due, "disputes": disputes}
    raise AssertionError("the stream of events never ends")


async def _until_kept(settings: Settings, disputes: int) -> None:
    with psycopg.connect(settings.database, autocommit=True) as connection:
        kept = 0
        while kept < disputes:
            await asyncio.sleep(0.2)
            [kept] = connection.execute("SELECT count(*) FROM deadlines").fetchone() or [0]


async def _let_senders_set_the_time(settings: Settings, topics: Topics) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        configs = {"message.timestamp.type": "CreateTime"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topics.commands, configs=configs)])
    finally:
        await admin.close()


def _register_and_ask(order_id: str) -> list[CommandEnvelope]:
    register = life(order_id)[0]
    request = OrderUpdateRequest(kind="order_update", message="How is it going?")
    ask = OpenDispute(actor=register.data["client_id"], request=request)
    return [register, CommandEnvelope.of(order_id, ask, source="/bench")]


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, max_batch_size=256 * 1024)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _events(settings: Settings) -> AsyncIterator[AsyncIterator[tuple[float, dict[str, Any]]]]:
    """Yields events as they arrive, each with the real time of its arrival in seconds since 1970."""
    consumer = AIOKafkaConsumer(
        Topics(settings.topic_prefix).events,
        bootstrap_servers=settings.kafka,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()

    async def arriving() -> AsyncIterator[tuple[float, dict[str, Any]]]:
        while True:
            batches = await consumer.getmany(timeout_ms=500)
            now = time.time()
            for batch in batches.values():
                for record in batch:
                    yield now, json.loads(record.value or b"")

    try:
        yield arriving()
    finally:
        await consumer.stop()
