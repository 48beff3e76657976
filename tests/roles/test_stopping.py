"""A consumer that is stopped while Kafka does not answer ends, and its caller continues."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest

from tests.support.installation import Installation


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
