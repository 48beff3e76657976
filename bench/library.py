"""The plain use of the eventsourcing library, as its documentation shows it: one consumer, one `save` per command.

It uses an aggregate with decorated methods, the JSON transcoder, the PostgreSQL recorder, and a repository that loads
the aggregate for each command. It does less than the service: it judges only what the commands of `bench/load.py` need,
remembers no command ids, and writes no outcomes and no positions.
"""

import time
from datetime import datetime
from uuid import NAMESPACE_URL, UUID, uuid5

from aiokafka import AIOKafkaConsumer, TopicPartition
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict
from resolution_contracts import (
    Accept,
    CommandEnvelope,
    Decline,
    OfferPartialRefund,
    OpenDispute,
    RecordDelivery,
    RegisterOrder,
    Withdraw,
)

from services.kafka.topics import DEFAULT_PARTITIONS


class PlainOrder(Aggregate):
    """An order, written as in the library's tutorial."""

    @event("Registered")
    def __init__(self, order_id: str, client_id: str, freelancer_id: str, price: int, expected: datetime):
        self.order_id = order_id
        self.parties = (client_id, freelancer_id)
        self.price = price
        self.expected = expected
        self.open: str | None = None
        self.delivered = False

    @staticmethod
    def create_id(order_id: str) -> UUID:
        return uuid5(NAMESPACE_URL, f"/orders/{order_id}")

    @event("DisputeOpened")
    def open_dispute(self, dispute_id: str, actor: str, kind: str, text: str) -> None:
        if self.open is not None or actor not in self.parties:
            raise ValueError("not now")
        self.open = dispute_id

    @event("Settled")
    def settle(self, dispute_id: str, actor: str, how: str) -> None:
        if self.open != dispute_id or actor not in self.parties:
            raise ValueError("not open")
        self.open = None

    @event("Delivered")
    def deliver(self) -> None:
        self.delivered = True


class PlainOrders(Application[UUID]):
    """The application of the tutorial."""

    def handle(self, envelope: CommandEnvelope) -> None:
        command = envelope.command()
        if isinstance(command, RegisterOrder):
            assert command.expected_delivery_at is not None
            order = PlainOrder(
                envelope.subject,
                command.client_id,
                command.freelancer_id,
                command.price.amount,
                command.expected_delivery_at,
            )
            self.save(order)
            return
        order = self.repository.get(PlainOrder.create_id(envelope.subject))
        match command:
            case OpenDispute():
                order.open_dispute(envelope.id, command.actor, command.request.kind, command.request.model_dump_json())
            case OfferPartialRefund():
                order.open_dispute(envelope.id, command.actor, "partial_refund", command.explanation)
            case Accept() | Decline() | Withdraw():
                order.settle(command.dispute_id, command.actor, envelope.name)
            case RecordDelivery():
                order.deliver()
        self.save(order)


async def backlog(bootstrap_servers: str, topic: str, database_url: str, limit: int) -> float:
    """Handles `limit` commands of the topic one by one. Returns commands per second."""
    application = PlainOrders(environment_of(database_url))
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        done, started = 0, time.perf_counter()
        while done < limit:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=100)).values():
                for record in records:
                    application.handle(CommandEnvelope.model_validate_json(record.value or b""))
                    done += 1
        return done / (time.perf_counter() - started)
    finally:
        await consumer.stop()
        application.close()


def environment_of(database_url: str) -> dict[str, str]:
    """Returns the environment variables from which the library takes its PostgreSQL database."""
    parameters = conninfo_to_dict(database_url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parameters["dbname"]),
        "POSTGRES_HOST": str(parameters.get("host", "")),
        "POSTGRES_PORT": str(parameters.get("port", 5432)),
        "POSTGRES_USER": str(parameters.get("user", "postgres")),
        "POSTGRES_PASSWORD": str(parameters.get("password", "")),
    }
