"""Connections that the broker resets in the moment before aiokafka learns of it, and what that could do to a role."""

import asyncio

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from services.embedded import Servers
from services.kafka.cluster import Cluster
from services.runtime import roles
from tests.support.installation import Installation


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


async def test_a_role_whose_client_has_left_its_group_for_good_ends(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    async def fails(*_: object) -> None:
        raise RuntimeError("of a kind that aiokafka does not expect")

    monkeypatch.setattr(GroupCoordinator, "_maybe_do_autocommit", fails)
    start = roles.Start(installation.settings, installation.topics, installation.clock, asyncio.Event())
    ended = pytest.RaisesExc(RuntimeError, match=r"does not read .* any more")
    async with asyncio.timeout(60):
        with pytest.RaisesGroup(ended, allow_unwrapped=True, flatten_subgroups=True):
            await roles.ROLES["commands"](start)
