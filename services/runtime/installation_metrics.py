"""The metrics of the whole installation, read from PostgreSQL and Kafka every few seconds.

Every role exports them, so that they exist even when the role in question is down. Take the `max` over the roles.
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
_relay = Gauge("resolution_relay_lag_outcomes", "Stored outcomes and dead letters that are not published yet.")
_relay_seconds = Gauge("resolution_relay_lag_seconds", "Minimum age in seconds of the oldest unpublished outcome.")
_ahead = Gauge(
    "resolution_published_ahead_outcomes",
    "Outcomes on Kafka that the store does not have. Above 0 if the store was restored.",
)
_added = Gauge(
    "resolution_added_partitions",
    "Partitions of a topic that the database does not know. Nobody reads them.",
    ["topic"],
)
_model = Gauge("resolution_projection_lag_events", "Stored events that a read model lacks.", ["read_model"])
_model_seconds = Gauge(
    "resolution_projection_lag_seconds",
    "Minimum age in seconds of the oldest event that a read model lacks.",
    ["read_model"],
)
_checkpoint = Gauge("resolution_checkpoint_lag_events", "Stored events that no checkpoint covers.")
_checkpoint_seconds = Gauge(
    "resolution_checkpoint_lag_seconds", "Minimum age in seconds of the oldest event that no checkpoint covers."
)
_open = Gauge("resolution_deadlines_open", "Open disputes that the timer knows.")
_overdue = Gauge("resolution_deadlines_overdue", "Open disputes whose deadline is over.")
_overdue_seconds = Gauge("resolution_deadlines_overdue_seconds", "Real seconds since the most overdue deadline.")
_parked = Gauge("resolution_parked_orders", "Orders on which our own code failed.")
_parked_commands = Gauge("resolution_parked_commands", "Commands of parked orders that wait.")
_dead = Gauge("resolution_dead_letters_unhandled", "Dead letters that no operator has handled.")
_differences = Gauge("resolution_verify_differences", "Differences that the last `resolution verify` found.", ["check"])
_verified = Gauge(
    "resolution_verify_finished_timestamp_seconds", "Unix time at which the last `resolution verify` ended.", ["check"]
)


class Watch:
    """Reads the servers every few seconds, sets the metrics of one shard, and reports to `health`.

    It reports which servers answered, and which work of `role`, this process's role, does not move. With `reads_topics`
    the role is not ready while a topic has added partitions that nobody reads. `read_models` are their names.

    With `one_of_several` it only reports to `health`: this process serves several shards, and the processes of each
    shard export the metrics.
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
        """Reads for ever, also while servers do not answer."""
        try:
            while True:
                try:
                    await self._kafka_answers(await self._stored())
                except Exception:  # without this log line, a bug would silently leave old values for ever
                    log.exception("reading the servers' state failed; trying again")
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
        finally:
            await self._disconnect()

    async def _kafka_answers(self, stored: Overview | None) -> None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_SECONDS):
                consumer = await self._connected()
                if stored is None or not self._shows:
                    await consumer.topics()
                else:
                    await self._compare(consumer, stored)
                self._show_added(await partition_counts(consumer, [name for name, _ in self._topics.settings()]))
            self._answered("kafka")
        except (KafkaError, TimeoutError, OSError) as error:
            self._answered("kafka", type(error).__name__)
            await self._disconnect()

    def _show_added(self, counts: Mapping[str, int]) -> None:
        """Logs and reports topics with added partitions. Nothing else would show that orders in them wait."""
        known = self._topics.partitions
        for topic, count in counts.items():
            _added.labels(topic).set(max(0, count - known))
        other = {topic: count for topic, count in counts.items() if count > known}
        if other and other != self._other:
            self._other = other
            log.error("added partitions are not read: %s", other_count(other, known))
        if self._reads_topics:
            self._health.server("topics", other_count(other, known) if other else "")

    async def _connected(self) -> AIOKafkaConsumer:
        """Returns the consumer, connected. Raises KafkaError."""
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                **self._kafka.options,
                isolation_level="read_committed",
                enable_auto_commit=False,
                max_partition_fetch_bytes=1,  # the broker sends at least one record batch anyway
            )
            await self._consumer.start()
        return self._consumer

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_ANSWER_WITHIN_SECONDS):
                    await consumer.stop()

    def _answered(self, server: str, trouble: str = "") -> None:
        self._health.server(server, trouble)
        if self._shows:
            _up.labels(server).set(not trouble)

    async def _stored(self) -> Overview | None:
        try:
            stored = await asyncio.to_thread(self._look)
        except psycopg.Error as error:
            self._answered(self._postgresql, type(error).__name__)
            return None
        self._answered(self._postgresql)
        if self._shows:
            self._show(stored)
        return stored

    def _show(self, stored: Overview) -> None:
        _open.set(stored.deadlines)
        _overdue.set(stored.overdue)
        _overdue_seconds.set(self._late(stored.most_overdue))
        _parked.set(stored.parked_orders)
        _parked_commands.set(stored.parked_commands)
        _dead.set(stored.dead_letters)
        # `_relayed` is from the previous look. The relay first notes what it will publish, so a note that was read
        # later can only be smaller if the store was restored.
        _ahead.set(0 if stored.intended is None else max(0, self._relayed - stored.intended))
        for model in self._models:
            read = stored.read_models.get(model, 0)
            self._show_lag(_model.labels(model), _model_seconds.labels(model), model, stored.last_event, read)
        if stored.checkpointed is not None:
            self._show_lag(_checkpoint, _checkpoint_seconds, "checkpoints", stored.last_event, stored.checkpointed)
        for check, differences, finished_at in stored.verifications:
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
            self._moves(what, end, read, restart=False)  # it fails on an event; the other read models continue
        lag.set(max(0, end - read))
        seconds.set(self._ages.setdefault(what, _Ages()).of(end, read))

    def _moves(self, what: str, end: int, read: int, *, restart: bool = True) -> None:
        """Reports to `health` for how long `read` has stayed the same below `end`."""
        now = monotonic()
        last, since = self._moved.get(what, (-1, now))
        if read != last or read >= end:
            since = now
        self._moved[what] = (read, since)
        self._health.unmoved(what, now - since, restart=restart)

    async def _compare(self, consumer: AIOKafkaConsumer, stored: Overview) -> None:
        """Compares the store with Kafka, and sets the lag of relay, commands role and timer. Raises KafkaError."""
        relayed = self._relayed = (await published(self._kafka, self._topics)).outcome_id
        self._show_lag(_relay, _relay_seconds, "relay", stored.last_outcome, relayed)
        for role, topic in (("commands", self._topics.commands), ("timer", self._topics.events)):
            positions = stored.positions.get(role, {})
            try:
                oldest = await oldest_unread(consumer, topic, positions)
            except TopicAuthorizationFailedError:
                continue  # the http role need not have the right to read these topics; other roles export their lag
            if self._role == role:
                for number, read in positions.items():
                    if is_assigned(topic, number):
                        self._moves(f"{topic}/{number}", read + (number in oldest), read)
            records = sum(count for count, _ in oldest.values())
            seconds = max([0.0, *(time() - timestamp / 1000 for _, timestamp in oldest.values())])
            _lag.labels(role).set(records)
            _lag_seconds.labels(role).set(seconds)


class _Ages:
    """Finds out for how long there has been something unread, by remembering when each end was first seen."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque()

    def of(self, end: int, read: int) -> float:
        """Returns the seconds since `end` was first seen above `read`, or 0.0 if everything is read."""
        now = monotonic()
        if not self._seen or self._seen[-1][0] < end:
            self._seen.append((end, now))
        while self._seen and self._seen[0][0] <= read:
            self._seen.popleft()
        return now - self._seen[0][1] if self._seen else 0.0
