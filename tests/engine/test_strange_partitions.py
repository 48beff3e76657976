"""Histories of earlier versions, which took commands from any partition, go on and still verify."""

from resolution_contracts import CommandEnvelope

from services.kafka.topics import DEFAULT_PARTITIONS, partition_of
from tests.engine.commands import ask_update, register
from tests.engine.test_bad_input import resolution
from tests.installation import Installation


async def test_a_history_with_commands_in_strange_partitions_still_verifies(installation: Installation):
    strange = (partition_of(b"order-1", DEFAULT_PARTITIONS) + 1) % DEFAULT_PARTITIONS
    for command in (register(), ask_update()):
        envelope = CommandEnvelope.of("order-1", command, source="/tests")
        await installation.publish_raw(envelope.key, envelope.to_json(), partition=strange)
    await installation.publish("order-2", register())
    async with installation.earlier_here("commands", "relay"):
        await installation.until_published()
    assert len(await installation.events("order-1")) == 2
    await installation.run("commands", "relay", "timer", "projections")
    await installation.send("order-2", ask_update())
    await installation.publish_raw(envelope.key, envelope.to_json(), partition=strange)  # from now on a dead letter
    await installation.until_published()
    await installation.until_projected()
    resolution(installation, "ledger")
    resolution(installation, "verify")
    await installation.stop()
    resolution(installation, "verify", "--from-commands")
