"""The metrics of the installation as a whole, read from PostgreSQL and Kafka every few seconds.

Every role shows them, so that they are there also when the role is down that they are about: of several roles that say
the same, take `max`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic, time

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from prometheus_client import Gauge

from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.installation_state import Overview, overview
from services.kafka.cluster import Cluster
from services.kafka.read_topics import oldest_unread
from services.kafka.relay_position import published
from services.kafka.topics import Topics, other_count, partition_counts
from services.telemetry.health import Health, is_assigned

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 5.0
_ANSWER_WITHIN_SECONDS = 10.0

_up = Gauge("resolution_server_up", "Whether a server answers this process.", ["server"])
_lag = Gauge("resolution_consumer_lag_records", "Offsets of a topic that a role has not read.", ["consumer"])
_lag_seconds = Gauge(
    "resolution_consumer_lag_seconds", "Age of the oldest record that a role has not read.", ["consumer"]
)
_relay = Gauge("resolution_relay_lag_outcomes", "Outcomes and dead letters stored, but not on Kafka.")
_relay_seconds = Gauge("resolution_relay_lag_seconds", "For how long at least the oldest of them is stored.")
_ahead = Gauge(
    "resolution_published_ahead_outcomes", "Outcomes on Kafka that the store does not know to be: it was restored."
)
_added = Gauge(
    "resolution_added_partitions",
    "Partitions of a topic that the database does not know: nobody reads them.",
    ["topic"],
)
_model = Gauge("resolution_projection_lag_events", "Events stored that a read model lacks.", ["read_model"])
_model_seconds = Gauge(
    "resolution_projection_lag_seconds", "For how long at least the oldest of them is stored.", ["read_model"]
)
_checkpoint = Gauge("resolution_checkpoint_lag_events", "Events stored that no checkpoint covers.")
_checkpoint_seconds = Gauge("resolution_checkpoint_lag_seconds", "For how long at least the oldest of them is stored.")
_open = Gauge("resolution_deadlines_open", "Open disputes that the timer knows.")
_overdue = Gauge("resolution_deadlines_overdue", "Open disputes whose deadline is over.")
_overdue_seconds = Gauge("resolution_deadlines_overdue_seconds", "Real seconds since the deadline most overdue.")
_parked = Gauge("resolution_parked_orders", "Orders on which our own code failed.")
_parked_commands = Gauge("resolution_parked_commands", "Commands that wait with them.")
_dead = Gauge("resolution_dead_letters_unhandled", "Dead letters that no operator has dealt with.")
_differences = Gauge("resolution_verify_differences", "What the last `resolution verify` found to differ.", ["check"])
_verified = Gauge("resolution_verify_finished_timestamp_seconds", "When it ended.", ["check"])


class Watch:
    """Looks from time to time, for ever, and tells `health` which servers answered. `read_models`: their names.

    What `role`, the one of this process, leaves undone is told to `health`, too.
    `reads_topics`: whether the role is not ready while partitions have been added that nobody reads.

    It shows one shard. Of several in one process none is shown, for their own processes show them; only what `health`
    asks for is told of each.
    """

    def __init__(
        self,
        database: str,
        kafka: Cluster,
        topics: Topics,
        clock: Clock,
        health: Health,
        read_models: Sequence[str],
        *,
        role: str = "",
        one_of_several: bool = False,
        reads_topics: bool = True,
    ) -> None:
        self._reads_topics = reads_topics
        self._shows = not one_of_several
        self._postgresql = "postgresql" + (topics.shard.suffix if one_of_several else "")
        self._database, self._kafka, self._topics, self._clock, self._health = database, kafka, topics, clock, health
        self._models = read_models
        self._role = role
        self._moved: dict[str, tuple[int, float]] = {}
        self._ages: dict[str, _Ages] = {}
        self._relayed = 0
        self._other: dict[str, int] = {}
        self._consumer: AIOKafkaConsumer | None = None

    async def run(self) -> None:
        """Does not give up, whatever is away."""
        try:
            while True:
                try:
                    await self._kafka_answers(await self._stored())
                except Exception:  # a bug of ours must not leave the last values standing for ever, silently
                    log.exception("the servers cannot be watched; trying again")
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
        finally:
            await self._hang_up()

    async def _kafka_answers(self, found: Overview | None) -> None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_SECONDS):
                consumer = await self._connected()
                if found is None or not self._shows:
                    await consumer.topics()
                else:
                    await self._compare(consumer, found)
                self._show_added(await partition_counts(consumer, [name for name, _ in self._topics.settings()]))
            self._answered("kafka")
        except (KafkaError, TimeoutError, OSError) as error:
            self._answered("kafka", type(error).__name__)
            await self._hang_up()

    def _show_added(self, counts: Mapping[str, int]) -> None:
        """Says which topics have partitions that were added: their orders wait, and nothing else fails."""
        known = self._topics.partitions
        for topic, count in counts.items():
            _added.labels(topic).set(max(0, count - known))
        other = {topic: count for topic, count in counts.items() if count > known}
        if other and other != self._other:
            self._other = other
            log.error("nothing is read from partitions that were added: %s", other_count(other, known))
        if self._reads_topics:
            self._health.server("topics", other_count(other, known) if other else "")

    async def _connected(self) -> AIOKafkaConsumer:
        """Raises KafkaError."""
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                **self._kafka.options,
                isolation_level="read_committed",
                enable_auto_commit=False,
                max_partition_fetch_bytes=1,  # one batch comes all the same
            )
            await self._consumer.start()
        return self._consumer

    async def _hang_up(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(consumer.stop(), _ANSWER_WITHIN_SECONDS)

    def _answered(self, server: str, trouble: str = "") -> None:
        self._health.server(server, trouble)
        if self._shows:
            _up.labels(server).set(not trouble)

    async def _stored(self) -> Overview | None:
        try:
            found = await asyncio.to_thread(self._look)
        except psycopg.Error as error:
            self._answered(self._postgresql, type(error).__name__)
            return None
        self._answered(self._postgresql)
        if self._shows:
            self._show(found)
        return found

    def _show(self, found: Overview) -> None:
        _open.set(found.deadlines)
        _overdue.set(found.overdue)
        _overdue_seconds.set(self._late(found.most_overdue))
        _parked.set(found.parked_orders)
        _parked_commands.set(found.parked_commands)
        _dead.set(found.dead_letters)
        # What was published when this looked last: the relay notes first and publishes then.
        _ahead.set(0 if found.intended is None else max(0, self._relayed - found.intended))
        for model in self._models:
            read = found.read_models.get(model, 0)
            self._show_lag(_model.labels(model), _model_seconds.labels(model), model, found.last_event, read)
        if found.checkpointed is not None:
            self._show_lag(_checkpoint, _checkpoint_seconds, "checkpoints", found.last_event, found.checkpointed)
        for check, differences, finished_at in found.verifications:
            _differences.labels(check).set(differences)
            _verified.labels(check).set(finished_at.timestamp())

    def _look(self) -> Overview:
        with connect(self._database, answer_within=_ANSWER_WITHIN_SECONDS) as connection:
            return overview(connection, self._clock.now())

    def _late(self, due_at: datetime | None) -> float:
        return 0.0 if due_at is None else max(0.0, (datetime.now(UTC) - self._clock.real(due_at)).total_seconds())

    def _show_lag(self, lag: Gauge, seconds: Gauge, what: str, end: int, read: int) -> None:
        if what == self._role == "relay":
            self._moves(what, end, read)
        elif what in self._models and self._role == "projections":
            self._moves(what, end, read, restart=False)  # it fails on an event, and the others go on
        lag.set(max(0, end - read))
        seconds.set(self._ages.setdefault(what, _Ages()).of(end, read))

    def _moves(self, what: str, end: int, read: int, *, restart: bool = True) -> None:
        """Tells `health` for how long `read` has stood before `end`."""
        now = monotonic()
        last, since = self._moved.get(what, (-1, now))
        if read != last or read >= end:
            since = now
        self._moved[what] = (read, since)
        self._health.unmoved(what, now - since, restart=restart)

    async def _compare(self, consumer: AIOKafkaConsumer, found: Overview) -> None:
        """What is stored with what is on Kafka. Raises KafkaError."""
        relayed = self._relayed = (await published(self._kafka, self._topics)).outcome_id
        self._show_lag(_relay, _relay_seconds, "relay", found.last_outcome, relayed)
        for role, topic in (("commands", self._topics.commands), ("timer", self._topics.events)):
            positions = found.positions.get(role, {})
            try:
                oldest = await oldest_unread(consumer, topic, positions)
            except TopicAuthorizationFailedError:
                continue  # the role http need not read these topics; others show it
            if self._role == role:
                for number, read in positions.items():
                    if is_assigned(topic, number):
                        self._moves(f"{topic}/{number}", read + (number in oldest), read)
            records = sum(count for count, _ in oldest.values())
            seconds = max([0.0, *(time() - timestamp / 1000 for _, timestamp in oldest.values())])
            _lag.labels(role).set(records)
            _lag_seconds.labels(role).set(seconds)


class _Ages:
    """Since when something is there that is not read: numbers grow, and were first seen at some time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque()

    def of(self, end: int, read: int) -> float:
        """Seconds since the first look at which there was more than what is read by now."""
        now = monotonic()
        if not self._seen or self._seen[-1][0] < end:
            self._seen.append((end, now))
        while self._seen and self._seen[0][0] <= read:
            self._seen.popleft()
        return now - self._seen[0][1] if self._seen else 0.0
