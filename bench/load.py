"""The commands that all benchmarks use: lives of orders, ten commands each, interleaved as they would arrive."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from aiokafka import AIOKafkaProducer
from resolution_contracts import (
    Accept,
    CancellationRequest,
    Command,
    CommandEnvelope,
    Decline,
    DeliveryExtensionRequest,
    Money,
    OfferPartialRefund,
    OpenDispute,
    OrderUpdateRequest,
    RecordDelivery,
    RefundReason,
    RegisterOrder,
    Withdraw,
)

COMMANDS_PER_ORDER = 10
_NAMESPACE = UUID(int=7)


def life(order_id: str) -> list[CommandEnvelope]:
    """The commands of one order, all of them accepted: 11 events."""
    client, freelancer = f"client-{order_id}", f"freelancer-{order_id}"
    ids = [str(uuid5(_NAMESPACE, f"{order_id}:{number}")) for number in range(COMMANDS_PER_ORDER)]
    extension = DeliveryExtensionRequest(kind="delivery_extension", days=3, note="The fonts arrive on Friday only.")
    update = OrderUpdateRequest(kind="order_update", message="How far along is the logo?")
    cancellation = CancellationRequest(kind="cancellation", comment="We changed our plans.")
    commands: list[Command] = [
        RegisterOrder(
            client_id=client,
            freelancer_id=freelancer,
            price=Money(amount=12500, currency="USD"),
            expected_delivery_at=datetime.now(UTC) + timedelta(days=9),
        ),
        OfferPartialRefund(
            actor=freelancer,
            amount=Money(amount=2500, currency="USD"),
            explanation="One of the three drafts is late.",
            reason=RefundReason.DELAY_COMPENSATION,
        ),
        Decline(actor=client, dispute_id=ids[1], message="No, thank you."),
        OpenDispute(actor=freelancer, request=extension),
        Accept(actor=client, dispute_id=ids[3]),
        OpenDispute(actor=client, request=update),
        Accept(actor=freelancer, dispute_id=ids[5], message="Two drafts are ready, the third comes tonight."),
        OpenDispute(actor=client, request=cancellation),
        Withdraw(actor=client, dispute_id=ids[7]),
        RecordDelivery(),
    ]
    return [
        CommandEnvelope.of(order_id, command, source="/bench", id=command_id)
        for command_id, command in zip(ids, commands, strict=True)
    ]


def numbered(number: int) -> str:
    return f"order-{number}"


def scattered(number: int) -> str:
    """An id that has nothing to do with those before and after, as a UUID would: indexes have it anywhere."""
    return hashlib.md5(f"order-{number}".encode()).hexdigest()


def records(orders: int, named: Callable[[int], str] = numbered) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each command; in waves of orders, all their first commands, then the second ones, and so on."""
    wave = max(1, orders // 100)
    for start in range(0, orders, wave):
        lives = [life(named(number)) for number in range(start, min(start + wave, orders))]
        for step in range(COMMANDS_PER_ORDER):
            for commands in lives:
                yield commands[step].key, commands[step].to_json()


async def publish(bootstrap_servers: str, topic: str, orders: int, named: Callable[[int], str] = numbered) -> int:
    """Puts the backlog on the commands topic; returns how many commands it has."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers, enable_idempotence=True, linger_ms=5, max_batch_size=256 * 1024
    )
    await producer.start()
    try:
        pending = [await producer.send(topic, key=key, value=value) for key, value in records(orders, named)]
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
    return len(pending)
