"""Measures the stages of the commands role one after another, without overlap, on the same commands."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.eventstore.append import Batch
from services.eventstore.application import OrderStore
from services.eventstore.event_codec import Sealing
from services.judging.judge import judge, read
from services.judging.record import Record
from services.kafka.record_batches import poll
from services.kafka.topics import DEFAULT_PARTITIONS
from services.orders import Order
from services.runtime.installation import clock_of
from services.sealing.order_keys import OrderKey
from services.settings import Settings

_PIECE = 4000


class _Watch:
    """Microseconds of this thread's processor time, and of wall-clock time, by stage."""

    def __init__(self) -> None:
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)

    def time(self, stage: str, work: Callable[[], Any]) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        result = work()
        self.cpu[stage] += (time.thread_time() - cpu) * 1e6
        self.wall[stage] += (time.perf_counter() - wall) * 1e6
        return result


async def per_command(settings: Settings, topic: str, commands: int) -> dict[str, dict[str, float]]:
    """Returns microseconds per command by stage, as `cpu` and `wall`."""
    watch, clock, orders, keys = _Watch(), clock_of(settings), dict[str, Order](), dict[str, OrderKey]()
    pieces = await _poll(settings.kafka, topic, commands, watch)
    with OrderStore(settings.database, settings.master_keys) as store:
        for piece in pieces:
            readings = watch.time("decode", partial(read, piece, clock.of_record, DEFAULT_PARTITIONS))
            for _, reading in readings:
                orders.setdefault(reading.order_id, Order(id=reading.order_id))
            judged = watch.time("judge", partial(judge, readings, orders, [], set()))
            sealing = Sealing(keys, settings.master_keys)
            stored = watch.time("map and seal", partial(list, map(sealing.stored, judged.events)))
            batch = Batch({}, judged.outcomes, sealing=sealing)
            watch.time("write and commit", partial(store.recorder.insert_events, stored, batch=batch))
    return {stage: {"cpu": watch.cpu[stage] / commands, "wall": watch.wall[stage] / commands} for stage in watch.wall}


async def _poll(kafka: str, topic: str, commands: int, watch: _Watch) -> list[list[Record]]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, max_partition_fetch_bytes=4 * 1024 * 1024
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)])
        await consumer.seek_to_beginning()
        pieces, found = [], 0
        cpu, wall = time.thread_time(), time.perf_counter()
        while found < commands:
            batches = await poll(consumer, timeout_ms=1000, max_records=_PIECE)
            pieces.append([record for batch in batches.values() for record in batch])
            found += len(pieces[-1])
        watch.cpu["poll"] = (time.thread_time() - cpu) * 1e6
        watch.wall["poll"] = (time.perf_counter() - wall) * 1e6
        return pieces
    finally:
        await consumer.stop()
