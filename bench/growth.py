"""Whether a command costs more on an order with a long history, or in a store with a long one."""

import asyncio
from collections.abc import Iterator

import psycopg
from aiokafka import AIOKafkaProducer
from resolution_contracts import Accept, CommandEnvelope, OpenDispute, OrderUpdateRequest

from bench.load import life


async def publish_long_lives(kafka: str, topic: str, orders: int, commands_each: int) -> int:
    """Orders that ask for an update and get it, again and again: a request and its answer are two events."""
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
    """Puts old orders into the store, ten events each, with an outcome for each event, all indexes in place.

    `order_id`: SQL that makes it of the event's number `n`.
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
