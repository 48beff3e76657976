"""Measures whether a command costs more on an order with many events, or in a store with many events."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
from aiokafka import AIOKafkaProducer
from resolution_contracts import Accept, CommandEnvelope, OpenDispute, OrderUpdateRequest

from bench.load import life
from services.eventstore.application import OrderStore
from services.eventstore.load_orders import load_orders
from services.eventstore.snapshots import write_snapshots
from services.orders import Order
from services.orders.decide import decide
from services.orders.events import Event
from services.orders.evolve import evolve_all
from services.settings import Settings

_LOADED = {50: 400, 100: 400, 200: 200, 1000: 50}
"""How many orders are loaded, by their number of events."""
_ROUNDS = 5


async def publish_long_lives(kafka: str, topic: str, orders: int, commands_each: int) -> int:
    """Returns commands for orders with many update requests. A request and its answer are two events."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=5, max_batch_size=256 * 1024)
    await producer.start()
    try:
        lives = [_long_life(f"long-{orders}-{number}", commands_each) for number in range(orders)]
        pending = [
            await producer.send(topic, key=envelope.key, value=envelope.to_json())
            for step in zip(*lives, strict=True)
            for envelope in step
        ]
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
    return len(pending)


def _long_life(order_id: str, commands: int) -> Iterator[CommandEnvelope]:
    register = life(order_id)[0]
    client, freelancer = register.data["client_id"], register.data["freelancer_id"]
    request = OrderUpdateRequest(kind="order_update", message="How is it going?")
    yield register
    for _ in range((commands - 1) // 2):
        ask = CommandEnvelope.of(order_id, OpenDispute(actor=client, request=request), source="/bench")
        yield ask
        answer = Accept(actor=freelancer, dispute_id=ask.id, message="Well.")
        yield CommandEnvelope.of(order_id, answer, source="/bench")


def fill(database: str, events: int, order_id: str = "'old-' || (n - 1) / 10") -> None:
    """Inserts old orders into the store, with ten events each and an outcome for each event. All indexes exist.

    `order_id` is SQL that makes the order id from the event number `n`.
    """
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO order_events SELECT {order_id}, (n - 1) %% 10 + 1, 'DisputeOpened', "
            "convert_to(repeat('x', 330), 'UTF8'), n FROM generate_series(1, %s::int) AS n",
            (events,),
        )
        connection.execute(
            "INSERT INTO outcomes (outcome_id, partition, record_offset, kind, order_id, command_id, digest, source, "
            f"last_event_id, message, month) SELECT n, 0, n, 'accepted', {order_id}, gen_random_uuid()::text, "
            "'\\x00112233445566778899aabbccddeeff', '/bench', n, convert_to(repeat('y', 430), 'UTF8'), month "
            "FROM generate_series(1, %s::int) AS n, newest_month() AS month",
            (events,),
        )
        connection.execute("VACUUM ANALYZE order_events, outcomes")
        connection.execute("CHECKPOINT")


def snapshots(settings: Settings) -> dict[str, dict[str, float]]:
    """Loads orders that aren't cached, in turns from their first event and from a snapshot.

    Returns medians by the number of events. `replay`, `snapshot` and `write` (to write a snapshot) are wall-clock
    microseconds per order, `..._cpu` microseconds of processor time, and `x` and `x_cpu` say how many times faster
    snapshots are.
    """
    found = {}
    with OrderStore(settings.database, settings.master_keys) as store, psycopg.connect(settings.database) as connection:
        connection.autocommit = True
        for events, count in _LOADED.items():
            ids = [f"long-{events}-{number}" for number in range(count)]
            for order_id in ids:
                store.append(_history(order_id, events))
            connection.execute("ANALYZE order_events")
            found[events] = _loaded(connection, store, ids)
    return {str(events): costs for events, costs in found.items()}


def _history(order_id: str, events: int) -> list[Event]:
    order, now = Order(id=order_id), datetime(2026, 1, 1, tzinfo=UTC)
    history: list[Event] = []
    for envelope in _long_life(order_id, events):
        now += timedelta(minutes=1)
        decision = decide(order, envelope.command(), envelope.id, now)
        evolve_all(order, decision.events)
        history += decision.events
    return history


def _loaded(connection: psycopg.Connection[Any], store: OrderStore, ids: list[str]) -> dict[str, float]:
    rounds = []
    for _ in range(_ROUNDS):
        replayed, *replay = _timed(lambda: load_orders(connection, store.masters, ids, snapshots=False).orders)
        orders = [order for order in replayed.values() if isinstance(order, Order)]
        _, *write = _timed(partial(write_snapshots, connection, orders))
        loaded, *snapshot = _timed(lambda: load_orders(connection, store.masters, ids).orders)
        assert loaded == replayed
        rounds.append({"replay": replay, "snapshot": snapshot, "write": write})
    costs: dict[str, float] = {}
    for name in rounds[0]:
        for place, unit in enumerate(("", "_cpu")):
            costs[name + unit] = statistics.median(each[name][place] for each in rounds) * 1e6 / len(ids)
    for place, unit in enumerate(("", "_cpu")):
        costs["x" + unit] = statistics.median(each["replay"][place] / each["snapshot"][place] for each in rounds)
    return costs


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns the result, the seconds, and the seconds of this thread's processor time."""
    wall, cpu = time.perf_counter(), time.thread_time()
    result = work()
    return result, time.perf_counter() - wall, time.thread_time() - cpu
