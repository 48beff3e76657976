"""What is stopped ends: a role at its work, and a consumer while Kafka does not answer."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest

from services.runtime import roles
from services.timer.role import TimerRole
from tests.support.commands import offer_refund, register
from tests.support.installation import Installation


async def test_a_timer_that_is_stopped_while_it_stores_a_deadline_ends(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    """The new deadline wakes the part that asks about deadlines in the moment in which that part is cancelled."""
    stores, record = asyncio.Event(), TimerRole._record

    async def stores_slowly(timer: TimerRole, *what: Any) -> None:
        stores.set()
        await asyncio.sleep(0.2)
        await record(timer, *what)

    monkeypatch.setattr(TimerRole, "_record", stores_slowly)
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    ready = asyncio.Event()
    start = roles.Start(installation.settings, installation.topics, installation.clock, ready)
    timer = asyncio.create_task(roles.ROLES["timer"](start))
    try:
        await asyncio.wait_for(ready.wait(), 30)
        await installation.until_published()
        stores.clear()
        await installation.send("order-1", offer_refund())
        await asyncio.wait_for(stores.wait(), 30)
        timer.cancel()
        await asyncio.wait([timer], timeout=10)
        assert timer.cancelled()
        assert installation.query("SELECT count(*) FROM deadlines") == [(1,)]
    finally:
        timer.cancel()


async def test_a_consumer_whose_fetch_has_just_failed_stops(installation: Installation):
    consumer = AIOKafkaConsumer(**installation.settings.cluster.options)
    await consumer.start()
    failed = asyncio.Event()
    send = consumer._client.send

    async def fails(node: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            failed.set()
            raise RequestTimedOutError
        return await send(node, request, **options)

    consumer._client.send = fails  # type: ignore[assignment, method-assign]
    consumer.assign([TopicPartition(installation.topics.commands, 0)])
    consumer.seek(TopicPartition(installation.topics.commands, 0), 0)
    await failed.wait()
    await consumer.stop()
    assert not any(connection.connected() for connection in consumer._client._conns.values())


async def test_a_client_in_a_process_of_others_stops(installation: Installation, monkeypatch: pytest.MonkeyPatch):
    """There aiokafka is as it comes, and raises CancelledError in that case."""

    async def close(_: Fetcher) -> None:
        raise asyncio.CancelledError

    client = await installation.client()
    with monkeypatch.context() as patch:
        patch.setattr(Fetcher, "close", close)
        await installation._stack.aclose()
    assert not any(connection.connected() for connection in client._answers._client._conns.values())
