"""Makes the commands that all benchmarks use: ten for each order, interleaved as they would arrive."""

import asyncio
import hashlib
import itertools
import random
from collections import deque
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
_BESIDE = 500
_SENT_AGAIN, _GARBAGE = 0.01, 0.005  # of all commands
_UNANSWERED, _NOT_ALLOWED = 0.1, 0.3  # of all orders
_NAMESPACE = UUID(int=7)


def life(order_id: str) -> list[CommandEnvelope]:
    """Returns the commands of one order. All are accepted and lead to 11 events."""
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
    """Returns an id that is unrelated to its neighbours, as a UUID is, so that it can be anywhere in an index."""
    return hashlib.md5(f"order-{number}".encode()).hexdigest()


def records(orders: int, named: Callable[[int], str] = numbered) -> Iterator[tuple[bytes, bytes]]:
    """Yields key and value of each command. In each wave of orders, all first commands come before all second ones."""
    wave = max(1, orders // 100)
    for start in range(0, orders, wave):
        lives = [life(named(number)) for number in range(start, min(start + wave, orders))]
        for step in range(COMMANDS_PER_ORDER):
            for commands in lives:
                yield commands[step].key, commands[step].to_json()


def marketplace(dice: random.Random) -> Iterator[tuple[bytes, bytes, str]]:
    """Yields key, value and command id of records for ever. New orders start all the time, and many are in progress.

    Some commands are repeated a little later, some disputes are never answered, and some commands are not allowed. Some
    records are garbage and have an empty id.
    """
    orders = map(scattered, itertools.count())
    lives = [_some_life(next(orders), dice) for _ in range(_BESIDE)]
    sent: deque[tuple[bytes, bytes, str]] = deque(maxlen=2 * _BESIDE)
    while True:
        place = dice.randrange(_BESIDE)
        if (command := next(lives[place], None)) is None:
            lives[place] = _some_life(next(orders), dice)
            continue
        sent.append((command.key, command.to_json(), command.id))
        yield sent[-1]
        if dice.random() < _SENT_AGAIN:
            yield dice.choice(sent)
        if dice.random() < _GARBAGE:
            yield command.key, b"garbage", ""


def _some_life(order_id: str, dice: random.Random) -> Iterator[CommandEnvelope]:
    commands = life(order_id)
    if dice.random() < _UNANSWERED:
        del commands[dice.choice([2, 4, 6, 8]) :]  # after a request
    if dice.random() < _NOT_ALLOWED:
        extension = DeliveryExtensionRequest(kind="delivery_extension", days=1, note="Take your time.")
        by_the_client = OpenDispute(actor=commands[0].data["client_id"], request=extension)
        refused = CommandEnvelope.of(order_id, by_the_client, source="/bench")
        commands.insert(dice.randint(1, len(commands)), refused)
    return iter(commands)


async def publish(bootstrap_servers: str, topic: str, orders: int, named: Callable[[int], str] = numbered) -> int:
    """Publishes the backlog on the commands topic. Returns its number of commands."""
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
