"""A connection that the broker resets, in the moment before aiokafka learns of it."""

import asyncio

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from services.embedded import Servers
from services.kafka.cluster import Cluster


def test_a_request_on_a_closed_connection_fails_as_aiokafka_expects(servers: Servers):
    async def requests() -> None:
        consumer = AIOKafkaConsumer(**Cluster(servers.kafka).options)
        await consumer.start()
        try:
            await consumer._client.force_metadata_update()
            [connection] = consumer._client._conns.values()
            assert connection._writer is not None
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(KafkaConnectionError):
                await connection.send(MetadataRequest([]))
            assert await consumer._client.force_metadata_update()  # on a new connection
        finally:
            await consumer.stop()

    uvloop.run(requests())
