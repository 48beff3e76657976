"""Kafka ends a transaction in part: it forgets to tell some partitions. Nothing is lost, nothing comes twice."""

import logging
import struct
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.record.util import calc_crc32c
from msgspec.json import encode

from services.embedded import Servers
from services.embedded.kafka import Kafka
from services.kafka.read_topics import by_topic, extents
from services.kafka.relay_position import published
from services.kafka.transactions import TransactionalProducer
from services.relay import role as relay_role
from services.relay.role import RelayRole
from tests.audit.test_ledger import ledger
from tests.fuzz.sender import RawSender, Taken
from tests.fuzz.wire import CONTROL, BatchHeader
from tests.roles.test_restore import judged, relay
from tests.support.checkpoints import assert_chain_holds, cover, with_key
from tests.support.commands import ask_cancellation, ask_update, register
from tests.support.installation import Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

ORDERS = [f"order-{number}" for number in range(6)]


class TrustingKafka(Kafka):
    """A broker that takes records of a transaction without asking its coordinator.

    So a test can leave a transaction open in a partition whose coordinator takes it as complete. Kafka itself does that
    when it drops a marker.
    """

    def properties(self, port: int, controller: int, data: Path) -> str:
        return super().properties(port, controller, data) + "transaction.partition.verification.enable=false\n"


@pytest.fixture(scope="module")
def trusting(servers: Servers) -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as folder:
        kafka = TrustingKafka(Path(folder).resolve(), lambda _: None)
        try:
            yield Servers(servers.database, kafka.start())
        finally:
            kafka.stop()


@pytest.fixture
async def installation(trusting: Servers) -> AsyncIterator[Installation]:
    async with Installation.fresh(trusting) as fresh:
        yield fresh


@pytest.mark.parametrize(
    "hidden",
    [("relay",), ("events", "commands.dead"), ("events", "outcomes", "commands.dead", "relay")],
    ids=" and ".join,
)  # fmt: skip
async def test_a_transaction_that_ended_in_part_is_completed(
    installation: Installation, hidden: Collection[str], caplog: pytest.LogCaptureFixture
):
    await end_in_part(installation, hidden)
    with caplog.at_level(logging.WARNING):
        async with installation.here("commands", "relay"):
            await installation.send(ORDERS[0], ask_cancellation())
    assert "Kafka ended a transaction in part" in caplog.text
    await assert_everything_came_once(installation)


@pytest.mark.parametrize("step", ["relay.begun", "marked", "ended", "relay.delivered"])
async def test_a_relay_that_dies_while_it_completes_a_transaction_begins_again(
    installation: Installation, step: str, monkeypatch: pytest.MonkeyPatch
):
    await end_in_part(installation, ("events", "relay"))
    with monkeypatch.context() as patch:
        match step:
            case "marked":
                patch.setattr(TransactionalProducer, "end", _die)
            case "ended":
                patch.setattr(RelayRole, "_checked", _die)
            case _:
                die_at(patch, step)
        with pytest.raises(SystemError):
            await relay(installation)
    async with installation.here("commands", "relay"):
        await installation.send(ORDERS[0], ask_cancellation())
    await assert_everything_came_once(installation)


async def test_a_relay_at_work_notices_that_readers_do_not_see_its_transaction(
    installation: Installation, caplog: pytest.LogCaptureFixture
):
    """Somebody else holds a partition open, which looks the same. Other partitions go on, and so does this one later."""
    await installation.run("commands")
    async with installation.here("relay"):
        await installation.send(ORDERS[0], register())
        where = TopicPartition(installation.topics.events, installation.topics.partition_of(ORDERS[0].encode()))
        with caplog.at_level(logging.WARNING):
            async with held_open_by_a_stranger(installation, where):
                await installation.send(ORDERS[0], ask_update())
                await until(lambda: "which is not of this service, has a transaction open" in caplog.text)
                assert "do not see it" in caplog.text
                await installation.send(ORDERS[1], register())
        await installation.send(ORDERS[0], ask_cancellation())
    await assert_everything_came_once(installation)


async def test_what_an_earlier_version_noted_as_published_is_committed(installation: Installation):
    """It did not wait until readers saw a transaction, so that its note was after what was still open."""
    await end_in_part(installation, ("events",))
    position = await published(installation.settings.cluster, installation.topics)
    ends = by_topic(await _ends(installation))
    installation.query("UPDATE publishing SET published = %s, ends = %s", (encode(position), encode(ends)))
    async with installation.here("commands", "relay"):
        await installation.send(ORDERS[0], ask_cancellation())
    await assert_everything_came_once(installation)


async def test_a_position_that_nobody_can_see_is_waited_for(installation: Installation):
    await installation.run("commands")
    async with installation.here("relay"):
        await installation.send(ORDERS[0], register())
    async with held_open_by_a_stranger(installation, TopicPartition(installation.topics.relay, 0)):
        with pytest.raises(KafkaError, match="cannot be seen until the transaction of another producer ends"):
            await relay(installation)
    async with installation.here("relay"):
        await installation.send(ORDERS[0], ask_update())
    await assert_everything_came_once(installation)


async def test_a_checkpoint_whose_transaction_stayed_open_is_signed_again(installation: Installation, tmp_path: Path):
    public = with_key(installation, tmp_path / "key")
    async with installation.here("commands", "relay"):
        for order in ORDERS:
            await installation.send(order, register())
    await cover(installation)
    topic = TopicPartition(installation.topics.checkpoints, 0)
    async with RawSender.connected(installation.settings.kafka) as sender:
        producer = await sender.begin(topic.topic)
        *_, (_, last) = await batches(sender, topic, 0)
        assert isinstance(await sender.produce(*topic, of(producer, last, 0), topic.topic), Taken)
    async with installation.here("commands", "relay"):
        await installation.send(ORDERS[0], ask_update())
    await cover(installation)
    await assert_chain_holds(installation, public)


async def end_in_part(installation: Installation, hidden: Collection[str]) -> None:
    """Publishes some outcomes. Then publishes others in a transaction that stays open on the topics that are `hidden`.

    The relay makes the transaction, and dies before it commits. The test repeats it, with the relay's transactional id.
    """
    topics = installation.topics
    await installation.run("commands")
    async with installation.here("relay"):
        for order in ORDERS[:3]:
            await installation.send(order, register())
    for order in ORDERS:
        await installation.publish(order, register())
        await installation.publish(order, ask_update())
        await installation.publish_raw(order.encode(), b"no command")
    await until(lambda: judged(installation) == 3 + 3 * len(ORDERS))
    ends = await _ends(installation)
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, "relay.delivered")
        with pytest.raises(SystemError):
            await relay(installation)
    await installation.stop("commands")
    async with RawSender.connected(installation.settings.kafka) as sender:
        producer = await sender.begin(topics.relay)
        written = {where: end for where, end in ends.items() if await batches(sender, where, end)}
        assert {topics.prefix + name for name in hidden} <= {where.topic for where in written}
        shown = [where for where in written if where.topic.removeprefix(topics.prefix) not in hidden]
        for where in shown:
            assert await sender.add_partition(topics.relay, producer, *where) == 0
            await again(sender, topics.relay, producer, where, ends[where])
        if shown:
            assert await sender.end(topics.relay, producer, commit=True) == 0
        for where in written.keys() - set(shown):
            await again(sender, topics.relay, producer, where, ends[where])


@asynccontextmanager
async def held_open_by_a_stranger(installation: Installation, where: TopicPartition) -> AsyncIterator[None]:
    """Writes the partition's last batch again in a transaction of another producer, and aborts it at the end."""
    async with RawSender.connected(installation.settings.kafka) as sender:
        stranger = await sender.begin(name := f"stranger-{uuid4()}")
        assert await sender.add_partition(name, stranger, *where) == 0
        *_, (_, last) = await batches(sender, where, 0)
        assert isinstance(await sender.produce(*where, of(stranger, last, 0), name), Taken)
        yield
        assert await sender.end(name, stranger, commit=False) == 0


async def again(
    sender: RawSender, transactional_id: str, producer: tuple[int, int], where: TopicPartition, start: int
) -> None:
    """Writes the aborted batches after `start` again."""
    sequence = 0
    for count, raw in await batches(sender, where, start):
        assert isinstance(await sender.produce(*where, of(producer, raw, sequence), transactional_id), Taken)
        sequence += count


async def batches(sender: RawSender, where: TopicPartition, start: int) -> list[tuple[int, bytes]]:
    """Returns the number of records and the bytes of each batch from `start` on, without markers."""
    _, stored = await sender.fetch(where.topic, where.partition, start)
    found, position = [], 0
    while (header := BatchHeader.of(stored, position)) is not None:
        if not header.attributes & CONTROL:
            found.append((header.count, stored[position : position + header.length]))
        position += header.length
    return found


def of(producer: tuple[int, int], batch: bytes, sequence: int) -> bytes:
    """Returns the batch as another transactional producer writes it, with its checksum."""
    attributes = struct.unpack_from(">h", batch, 21)[0] | 0x10
    body = struct.pack(">h", attributes) + batch[23:43] + struct.pack(">qhi", *producer, sequence) + batch[57:]
    return bytes(8) + batch[8:17] + struct.pack(">I", calc_crc32c(body)) + body


def die_at(patch: pytest.MonkeyPatch, step: str) -> None:
    def point(name: str) -> None:
        if name == step:
            raise SystemError("killed")

    patch.setattr(relay_role, "point", point)


async def _die(*_: Any, **__: Any) -> None:
    raise SystemError("killed")


async def _ends(installation: Installation) -> dict[TopicPartition, int]:
    """Returns where each partition ends that the relay writes to, with what is not committed."""
    topics, cluster = installation.topics, installation.settings.cluster
    written = (topics.events, topics.outcomes, topics.dead_letters, topics.notifications)
    _, ends = await extents(cluster, written, topics.partitions)
    _, own = await extents(cluster, [topics.relay], 1)
    return {TopicPartition(topic, number): end for topic, by in (ends | own).items() for number, end in by.items()}


async def assert_everything_came_once(installation: Installation) -> None:
    await installation.until_published()
    await assert_as_the_oracle_says(installation)
    assert (await ledger(installation))["differences"] == []
