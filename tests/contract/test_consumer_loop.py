"""A role's loop over a consumer, against a client that is a list of records: no server, and every order of events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from services.judging.record import Record
from services.kafka import consumer as module
from services.kafka.cluster import Cluster
from services.kafka.consumer import PositionedConsumer, Positions
from services.kafka.record_batches import UnreadablePartition

TOPIC = "commands"
WHERE = TopicPartition(TOPIC, 0)


class Client:
    """One partition, as much of aiokafka's consumer as is asked of it."""

    def __init__(self) -> None:
        self.log = [Record(TOPIC, 0, offset, 0, None, b"") for offset in range(6)]
        self.at: int | None = None
        self.failing: Exception | None = None
        self.paused: set[TopicPartition] = set()
        self.sought: list[int] = []
        self._client = None
        self._fetcher = SimpleNamespace(error_future=asyncio.get_running_loop().create_future())
        self._coordinator = SimpleNamespace(
            _coordination_task=asyncio.get_running_loop().create_future(),
            _heartbeat_task=asyncio.get_running_loop().create_future(),
            _commit_refresh_task=None,
        )
        state = SimpleNamespace(state_value=self._state, tps={WHERE})
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=state))

    def _state(self, _: TopicPartition) -> Any:
        return SimpleNamespace(position=self.at, has_valid_position=self.at is not None)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0)
        error, self.failing = self.failing, None
        if error is not None:
            self.at = len(self.log)  # as aiokafka does: what it took from the others is gone
            raise error
        if self.at is None or WHERE in self.paused or not (found := self.log[self.at : self.at + 2]):
            await asyncio.sleep(0.001)
            return {}
        self.at += len(found)
        return {WHERE: found}

    def assignment(self) -> set[TopicPartition]:
        return {WHERE}

    async def position(self, _: TopicPartition) -> int | None:
        return self.at

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.at = offset
        self.sought.append(offset)

    def pause(self, where: TopicPartition) -> None:
        self.paused.add(where)

    def resume(self, *where: TopicPartition) -> None:
        self.paused -= set(where)

    async def beginning_offsets(self, where: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(0)
        return dict.fromkeys(where, 0)

    async def end_offsets(self, where: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, len(self.log))


class Store:
    """Where the positions are kept. A handler writes to it."""

    def __init__(self) -> None:
        self.next = 0
        self.offsets: list[int] = []
        self.forgot = 0

    async def positions(self, topic_id: UUID, beginnings: Positions) -> tuple[Positions, Positions]:
        await asyncio.sleep(0)
        return dict.fromkeys(beginnings, self.next), dict.fromkeys(beginnings, 0)

    async def record(self, records: Sequence[Record], positions: Positions) -> None:
        assert positions[0] == self.next == records[0].offset
        await asyncio.sleep(0)
        self.offsets += [record.offset for record in records]
        self.next = records[-1].offset + 1

    def forget(self) -> None:
        self.forgot += 1


class Role:
    """The loop that the roles have, and what stands around it."""

    def __init__(self) -> None:
        self.client, self.store, self.ready = Client(), Store(), asyncio.Event()
        self.consumer = PositionedConsumer(
            Cluster("nowhere:1"), TOPIC, group="g", store=self.store, forget=self.store.forget, max_records=2
        )
        self.consumer._subscription = self  # type: ignore[assignment]
        self.polled: Callable[[], Any] | None = None
        self.handle = self.store.record

    async def __aenter__(self) -> None:
        await self.consumer.gained([WHERE])

    async def __aexit__(self, *_: object) -> None: ...

    def handles_slowly(self) -> tuple[asyncio.Event, asyncio.Event]:
        """The first is set when a batch is in hand; it is recorded once the second is set."""
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(records: Sequence[Record], positions: Positions) -> None:
            begun.set()
            await go_on.wait()
            await self.store.record(records, positions)

        self.handle = slowly
        return begun, go_on

    async def run(self) -> None:
        async with self.consumer.subscribed(self.ready):
            while True:
                batch = await self.consumer.next_batch()
                if self.polled is not None:
                    polled, self.polled = self.polled, None
                    await polled()
                await self.consumer.handle(batch, self.handle)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def all_recorded(self) -> None:
        async with asyncio.timeout(20):
            while self.store.next < len(self.client.log):  # noqa: ASYNC110  nothing says when
                await asyncio.sleep(0.001)
        assert self.store.offsets == list(range(len(self.client.log)))


@pytest.fixture
async def role(monkeypatch: pytest.MonkeyPatch) -> Role:
    async def topic_id(*_: object) -> UUID:
        return uuid4()

    monkeypatch.setattr(module, "topic_id", topic_id)
    made = Role()
    monkeypatch.setattr(PositionedConsumer, "_consumer", made.client)
    return made


async def test_everything_is_recorded_once_in_its_order(role: Role):
    async with role.running():
        await role.all_recorded()
    assert role.ready.is_set()
    assert role.client.sought == [0]


async def test_a_batch_from_before_a_rebalance_is_read_again(role: Role):
    async def rebalance() -> None:
        await role.consumer.lost()
        await role.consumer.gained([WHERE])

    role.polled = rebalance
    async with role.running():
        await role.all_recorded()
    assert role.client.sought == [0, 0]


async def test_a_batch_whose_partitions_were_taken_away_is_dropped(role: Role):
    role.polled = role.consumer.lost
    async with role.running():
        await asyncio.sleep(0.05)
        assert role.store.offsets == []
        await role.consumer.gained([WHERE])
        await role.all_recorded()


async def test_a_rebalance_waits_for_the_batch_in_hand(role: Role):
    begun, go_on = role.handles_slowly()
    async with role.running():
        await begun.wait()
        losing = asyncio.create_task(role.consumer.lost())
        await asyncio.sleep(0.02)
        assert not losing.done()
        go_on.set()
        await losing
        assert role.store.offsets == [0, 1]


async def test_a_batch_that_fails_is_read_again_from_what_is_stored(role: Role):
    record = role.store.record

    async def fails_once(records: Sequence[Record], positions: Positions) -> None:
        await record(records[:1], positions)  # a part of it is committed
        role.handle = record
        raise ValueError("raised by a test")

    role.handle = fails_once
    async with role.running():
        await role.all_recorded()
    assert role.client.sought == [0, 1]
    assert role.store.forgot == 2


async def test_what_a_poll_that_raises_has_dropped_is_read_again(role: Role):
    async def drop() -> None:
        role.client.failing = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "raised by a test")

    role.polled = drop
    async with role.running():
        await role.all_recorded()
    assert role.client.sought == [0, 2]


async def test_a_client_that_moves_on_in_silence_is_sent_back(role: Role):
    async def move() -> None:
        role.client.at = 4

    role.polled = move
    async with role.running():
        await role.all_recorded()
    assert role.client.sought == [0, 2]


async def test_a_partition_that_cannot_be_read_is_left_out_and_tried_again(role: Role, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_STOPPED_SECONDS", 0.05)
    role.client.failing = UnreadablePartition(WHERE, 0, ValueError("raised by a test"))
    async with role.running():
        async with asyncio.timeout(20):
            while not role.client.paused:  # noqa: ASYNC110  nothing says when
                await asyncio.sleep(0.001)
        assert role.store.offsets == []
        await role.all_recorded()
    assert role.client.paused == set()


async def test_a_role_that_is_told_to_stop_records_the_batch_in_hand(role: Role):
    begun, go_on = role.handles_slowly()
    async with role.running() as task:
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        go_on.set()
        await asyncio.wait([task])
        assert task.cancelled()
    assert role.store.offsets == [0, 1]


@pytest.mark.parametrize(
    "ended", ["_fetcher.error_future", "_coordinator._coordination_task", "_coordinator._heartbeat_task"]
)
async def test_a_role_whose_client_does_not_read_any_more_ends(role: Role, ended: str):
    attrgetter(ended)(role.client).set_exception(KafkaError())
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="does not read commands any more")):
        await asyncio.wait_for(role.run(), 20)
