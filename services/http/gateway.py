"""Serves the API and the pages: reads the read models for a viewer, and sends commands to Kafka."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from resolution_contracts.client import Client, Delivered, NotAcknowledged
from resolution_contracts.commands import (
    Accept,
    CancelOrder,
    Command,
    Decline,
    OfferPartialRefund,
    OpenDispute,
    Withdraw,
)
from resolution_contracts.envelope import CommandEnvelope
from resolution_contracts.topics import command_type

from projections import inbox, metrics, order_page, overview
from projections.framework import paging
from projections.framework.paging import Cursor, Page
from services.clock import Clock
from services.eventstore.database import fetch_value
from services.eventstore.outcomes import PlacedOutcome, last_outcome, outcome_at, outcome_of_command
from services.eventstore.read_events import events_of_order, newest_event, read_with_texts
from services.kafka.cluster import Cluster
from services.kafka.relay_position import published
from services.kafka.topics import Topics
from services.orders.public_events import event_envelope
from services.sealing.master_keys import MasterKeys

from . import operator_view
from .databases import Databases
from .judged import JudgedCommands
from .problems import Problem, unknown
from .viewers import Viewer
from .wake_ups import WakeUps

Json = dict[str, Any]
_T = TypeVar("_T")

PARTY_COMMANDS: dict[str, type[Command]] = {
    command.__name__: command for command in (OpenDispute, OfferPartialRefund, Accept, Decline, Withdraw, CancelOrder)
}
"""The commands that a party may send. Other services send all other commands, on Kafka."""

_LONGEST_WAIT_SECONDS = 10.0
_LONGEST_DELIVERY_SECONDS = 10.0
_SHORTEST_DELIVERY_SECONDS = 1.0
_ANSWER_KEPT_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.25
_REST_SECONDS = 0.25
"""The shortest time between two reads of a stream. Under load, read models change many times a second."""


@dataclass
class Gateway:
    """Access to databases and Kafka for all requests of a process."""

    databases: Databases
    """The databases of all shards."""
    client: Client
    """Sends commands and receives their outcomes."""
    ends: AIOKafkaConsumer
    """Asks for the end offsets of topics. It reads no records."""
    kafka: Cluster
    """The cluster's address and client options."""
    topics: Sequence[Topics]
    """The topics of each shard, in the order of the shards."""
    clock: Clock
    """Gives the business time."""
    wake_ups: WakeUps
    """Wakes streams when a read model has changed."""
    judged: JudgedCommands
    """Finds outcomes that are committed and perhaps not published yet."""
    masters: MasterKeys
    """The master keys that open sealed texts."""

    # --- reading ---

    async def order(self, viewer: Viewer, order_id: str) -> Json:
        """Returns the order page. Raises Problem (404) if the order does not exist or the viewer isn't a party."""
        try:
            shard, party = self.databases.shard_of(order_id), viewer.party
            page = await self.databases.read(shard, order_page.look, self.masters, order_id, party, self.clock.now())
        except order_page.NotAParty:
            page = None
        if page is None:
            raise unknown("order")
        return page

    async def must_see(self, viewer: Viewer, order_id: str) -> None:
        """Raises Problem (404) if the order does not exist or the viewer isn't a party."""
        if not await self.databases.read_order(order_page.may_see, order_id, viewer.party):
            raise unknown("order")

    async def orders(self, viewer: Viewer, after: Cursor | None = None, limit: int = order_page.MOST_ORDERS) -> Page:
        """Returns a page of the viewer's orders, starting after the line `after`."""
        look = order_page.orders_of
        parts = await self.databases.read_all(look, self.masters, viewer.user, self.clock.now(), after, limit)
        return paging.merged(parts, limit, newest_first=True)

    async def inbox(
        self, viewer: Viewer, after: Mapping[str, Cursor | None] | None = None, limit: int = inbox.MOST_LINES
    ) -> inbox.View:
        """Returns the viewer's inbox. `after` has for each list the line after which its page starts."""
        now = self.clock.now()
        parts = await self.databases.read_all(inbox.look, viewer.user, now, after, limit)
        return inbox.merged(parts, viewer.user, now, limit)

    async def versions(self, viewer: Viewer, after: Cursor | None, limit: int) -> list[list[tuple[str, int]]]:
        """Returns for each shard the ids and versions of its orders that may be on a page.

        If the page changes, so does the result.
        """
        return await self.databases.read_all(order_page.versions_of, viewer.user, after, limit)

    async def metrics(self, viewer: Viewer) -> Json:
        """Returns the viewer's metrics, as client and as freelancer."""
        return metrics.view(viewer.user, await self.databases.read_all(metrics.counts_of, viewer.user))

    async def overview(self) -> Json:
        """Returns the operators' overview of all disputes."""
        return overview.merged(await self.databases.read_all(overview.look, self.clock.now()))

    async def operations(self) -> Json:
        """Returns the state of the installation: lag, overdue deadlines, parked orders, dead letters."""
        return operator_view.merged(await self.databases.read_all(operator_view.look, self.clock.now()))

    async def history(self, viewer: Viewer, order_id: str, after: int, limit: int) -> list[Json]:
        """Returns an order's public events whose sequence is above `after`, oldest first."""
        await self.must_see(viewer, order_id)
        return await self.databases.read_order(_events, order_id, after, limit, self.masters)

    async def outcome(self, viewer: Viewer, order_id: str, command_id: str) -> Json:
        """Returns the outcome of a command, with its API position. Raises Problem (404) while there is none."""
        await self.must_see(viewer, order_id)
        stored = await self.databases.read_order(_outcome, order_id, command_id)
        if stored is None:
            raise unknown("command on this order")
        outcome, event_id = stored
        return outcome | {"position": self.databases.position(order_id, event_id)}

    async def caught_up(self, read_model: str, position: int) -> None:
        """Waits until a read model has everything up to an API position. Raises Problem (409) after 10 s.

        Positions come from outcomes. A position that the store itself has not reached is refused at once.
        """
        late = Problem(409, f"{read_model} has not reached position {position} yet; ask again.", {"Retry-After": "1"})
        shard, event_id = self.databases.event_at(position)
        if await self.databases.read(shard, newest_event) < event_id:
            raise late
        try:
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                while await self.databases.read(shard, _position, read_model) < event_id:
                    await self.wake_ups.next(0.2)
        except TimeoutError:
            raise late from None

    async def version(self, order_id: str) -> int:
        """Returns the version of the order in the read model `order_page`."""
        return await self.databases.read_order(_version, order_id)

    async def shown(self, order_id: str, version: int) -> None:
        """Waits until the read model `order_page` has this version of the order, at most 4 s."""
        for _ in range(20):
            if await self.version(order_id) >= version:
                return
            await self.wake_ups.next(0.2)

    async def ticks(self, viewer: Viewer) -> AsyncIterator[None]:
        """Yields at once, and then whenever a read model may have changed, until the viewer's token expires."""
        while viewer.is_current():
            yield
            await self.wake_ups.next(rest_seconds=_REST_SECONDS)

    async def unread_commands(self) -> int:
        """Returns the number of records on the commands topic that the commands role has not read."""
        parts = await self.databases.read_all(operator_view.positions)
        read = {number: offset for part in parts for number, offset in part.items()}
        partitions = [TopicPartition(self.topics[0].commands, number) for number in read]
        ends = await _answered(self.ends.end_offsets(partitions))
        return sum(end - read[partition.partition] for partition, end in ends.items())

    async def unpublished(self) -> int:
        """Returns the number of outcomes and dead letters that the relay has not published."""
        ends = await self.databases.read_all(last_outcome)
        positions = await _answered(asyncio.gather(*(published(self.kafka, topics) for topics in self.topics)))
        return sum(max(0, end - position.outcome_id) for end, position in zip(ends, positions, strict=True))

    # --- commands ---

    async def send(
        self,
        viewer: Viewer,
        order_id: str,
        name: str,
        data: Json,
        *,
        id: str | None,
        wait: float | None,
        traceparent: str | None = None,
    ) -> tuple[str, Json | None]:
        """Publishes a command of the viewer. Returns its id, and its outcome if that comes within `wait` seconds.

        Without `wait`, returns once Kafka has the command. Raises Problem (403, 404, 422, 503). After 503, nobody knows
        whether Kafka has the command.
        """
        until = asyncio.get_running_loop().time() + _seconds_for(wait)
        if name not in PARTY_COMMANDS:
            raise Problem(422, f"There is no command {name!r} for a party; there are {', '.join(PARTY_COMMANDS)}.")
        if viewer.operator:
            raise Problem(403, "Operators act for no party; a party has to send this.")
        if data.setdefault("actor", viewer.user) != viewer.user:
            raise Problem(403, "actor has to be you; leave it out.")
        await self.must_see(viewer, order_id)
        envelope = CommandEnvelope(
            id=id or str(uuid4()), type=command_type(name), source="/resolution-http", subject=order_id, data=data
        )
        if wait is None:
            _let_go((await self._deliver(envelope, traceparent, until)).answer)
            return envelope.id, None
        with self.judged.awaited(order_id, envelope.id) as stored:
            delivered = await self._deliver(envelope, traceparent, until)
            try:
                async with asyncio.timeout_at(until):
                    outcome = await self._first_to_come(delivered, stored, order_id, envelope.id)
            except TimeoutError:
                return envelope.id, None
            finally:
                _let_go(delivered.answer)
        if "dead" in outcome:
            raise Problem(422, f"This is not a command: {outcome['dead']}.")
        return envelope.id, outcome

    async def _first_to_come(
        self, delivered: Delivered, stored: asyncio.Future[PlacedOutcome], order_id: str, command_id: str
    ) -> Json:
        """Returns the outcome of the delivered record with its API position, or `{"dead": reason}`.

        The store has the outcome of the id's first use before Kafka has it. If that was another record's, the delivered
        one is a repeat, or uses the id for something else. Its outcome is looked up once Kafka has one for this id.
        """
        await asyncio.wait((delivered.answer, stored), return_when=asyncio.FIRST_COMPLETED)
        unread = delivered.answer.done() and delivered.answer.exception() is not None
        if unread:
            await stored  # the client does not read Kafka's outcomes any more
        if stored.done() and stored.result().is_of(delivered.partition, delivered.offset):
            return self._outcome_in(stored.result(), stored.result().last_event_id)
        if not unread and "dead" in (answer := await delivered.answer):
            return answer
        place = (delivered.partition, delivered.offset)
        # What Kafka has may be the outcome of a record that another process sent under the same id.
        while (found := await self.databases.read_order(outcome_at, order_id, command_id, *place)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        first = await self.databases.read_order(outcome_of_command, order_id, command_id)
        return self._outcome_in(found, (first or found).last_event_id)

    def _outcome_in(self, stored: PlacedOutcome, event_id: int) -> Json:
        outcome: Json = msgspec.json.decode(stored.message)
        return outcome | {"position": self.databases.position(stored.order_id, event_id)}

    async def _deliver(self, envelope: CommandEnvelope, traceparent: str | None, until: float) -> Delivered:
        """Sends a command. Returns once Kafka has it.

        Raises Problem (503) if Kafka has not acknowledged the command in time.
        """
        left = until - asyncio.get_running_loop().time()
        try:
            return await self.client.deliver_to_place(
                envelope.subject,
                envelope.to_json(),
                timeout=min(left, _LONGEST_DELIVERY_SECONDS),
                traceparent=traceparent,
            )
        except (KafkaError, NotAcknowledged):
            raise Problem(
                503,
                "Kafka has not taken the command. It may still arrive: send it again with the header Idempotency-Key: "
                f"{envelope.id}, so that it takes effect once.",
                {"Retry-After": "5"},
                command_id=envelope.id,
            ) from None


def _let_go(answer: asyncio.Future[Json]) -> None:
    """Cancels an answer that nobody waits for, but not at once.

    The client hands out the answers to one command id in turn, so the next use of the id would get this one.
    """
    later = asyncio.get_running_loop().call_later(_ANSWER_KEPT_SECONDS, answer.cancel)

    def came(done: asyncio.Future[Json]) -> None:
        later.cancel()
        if not done.cancelled():
            done.exception()  # which nobody else asks for

    answer.add_done_callback(came)


def _seconds_for(wait: float | None) -> float:
    """Returns how long a command may take in seconds. Kafka gets at least one second to acknowledge it."""
    return _LONGEST_DELIVERY_SECONDS if wait is None else max(wait, _SHORTEST_DELIVERY_SECONDS)


async def _answered(answer: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(10):
            return await answer
    except (KafkaError, TimeoutError):
        raise Problem(503, "Kafka does not answer; try again soon.", {"Retry-After": "2"}) from None


def _events(
    connection: psycopg.Connection[Any], order_id: str, after: int, limit: int, masters: MasterKeys
) -> list[Json]:
    events = read_with_texts(connection, masters, events_of_order(connection, order_id, after, limit))
    return [event_envelope(event) for event in events]


def _outcome(connection: psycopg.Connection[Any], order_id: str, command_id: str) -> tuple[Json, int] | None:
    """Returns the outcome's envelope, and the number of the last event in the store when the command was judged."""
    row = outcome_of_command(connection, order_id, command_id)
    return None if row is None else (msgspec.json.decode(row.message or b""), row.last_event_id)


def _version(connection: psycopg.Connection[Any], order_id: str) -> int:
    return fetch_value(connection, "SELECT version FROM order_page.orders WHERE order_id = %s", (order_id,)) or 0


def _position(connection: psycopg.Connection[Any], read_model: str) -> int:
    query = "SELECT max(notification_id) FROM projection_tracking WHERE application_name = %s"
    return fetch_value(connection, query, (read_model,)) or 0
