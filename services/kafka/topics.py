"""The topics: their names under a prefix, and the check that they are what the service needs."""

import asyncio
import logging
from collections.abc import Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError

from services.judging.partitioner import partition_of
from services.shards.arithmetic import ALONE, Shard

from .cluster import Cluster
from .topic_ids import topic_id
from .topic_settings import copies_to_ask_for, doubts, missing_copies, refusal

log = logging.getLogger(__name__)

DEFAULT_PARTITIONS = 8
_PATIENCE = 300  # tenths of a second
_UNAUTHORIZED = 29
_KAFKAS_OWN = ("__consumer_offsets", "__transaction_state")
_DAY_MS = 24 * 60 * 60 * 1000
LARGEST_RECORD = 4 * 1024 * 1024
"""In bytes: what the broker takes on the commands topic, so that what is too large for a command can be buried."""
_LARGE_RECORDS = {"max.message.bytes": str(LARGEST_RECORD)}


class TopicError(Exception):
    """A topic that the service cannot work with: a sentence that says which, why, and what to do."""


@dataclass(frozen=True)
class Topics:
    """The topics of one installation. Of `relay` and `checkpoints` each shard has its own; the others they share."""

    prefix: str
    shard: Shard = ALONE

    @property
    def partitions(self) -> int:
        """How many each has but those of one partition, as the database knows it."""
        assert self.shard.total is not None
        return self.shard.total

    def partition_of(self, key: bytes) -> int:
        """Where an order's records are, also where partitions were added."""
        return partition_of(key, self.partitions)

    @property
    def commands(self) -> str:
        """What services ask for."""
        return self.prefix + "commands"

    @property
    def events(self) -> str:
        """What happened to orders."""
        return self.prefix + "events"

    @property
    def outcomes(self) -> str:
        """What became of each command."""
        return self.prefix + "outcomes"

    @property
    def dead_letters(self) -> str:
        """Records of the commands topic that are not commands."""
        return self.prefix + "commands.dead"

    @property
    def notifications(self) -> str:
        """What people are to be told: reminders."""
        return self.prefix + "notifications"

    @property
    def relay(self) -> str:
        """The relay's own: how far it has published. One partition, compacted; nobody else needs it."""
        return self.prefix + "relay" + self.shard.suffix

    @property
    def checkpoints(self) -> str:
        """Signed hashes of the event store, for auditors. One partition, kept for ever."""
        return self.prefix + "checkpoints" + self.shard.suffix

    def names(self) -> list[str]:
        """Returns the names of all topics, also of those that only the roles read."""
        return [name for name, _ in chain(self.settings(), self.own_settings())]

    def settings(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Each topic that others use with what is set on it."""
        yield (
            self.commands,
            {"message.timestamp.type": "LogAppendTime", "retention.ms": str(365 * _DAY_MS)} | _LARGE_RECORDS,
        )
        yield self.events, {"retention.ms": "-1"}
        yield self.outcomes, {"retention.ms": str(30 * _DAY_MS)}
        yield self.notifications, {"retention.ms": str(30 * _DAY_MS)}
        yield self.dead_letters, {"retention.ms": str(365 * _DAY_MS)} | _LARGE_RECORDS

    def own_settings(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The same for the topics of one partition, which the roles themselves read."""
        yield self.relay, {"cleanup.policy": "compact", "segment.bytes": str(1024 * 1024)}
        yield self.checkpoints, {"retention.ms": "-1", "retention.bytes": "-1"}


async def ensure_topics(cluster: Cluster, topics: Topics, shards: int = 1) -> int:
    """Creates the topics that are missing and checks all; returns the number of partitions.

    `shards`: how many databases there are. Raises TopicError where a topic is set otherwise or has another partition
    count than the service needs, and aiokafka's KafkaError where the cluster does not answer. What may lose records,
    and may be meant so, is named in the log.
    """
    settings = dict(topics.settings())
    each = (replace(topics, shard=Shard(number, shards)).own_settings() for number in range(shards))
    own = dict(chain.from_iterable(each))
    async with _admin(cluster) as admin:
        existing = await _partition_counts(admin, set(settings))
        _check_partitions(existing, topics.shard.total)
        if topics.commands not in existing:
            count = topics.shard.total or next(iter(existing.values()), DEFAULT_PARTITIONS)
            await _create(admin, {topics.commands: settings[topics.commands]}, count)
            existing |= await _visible(admin, {topics.commands})
        partitions = existing[topics.commands]
        await _create(admin, {name: settings[name] for name in settings if name not in existing}, partitions)
        await _ensure_own(admin, own)
        _check_partitions(await _visible(admin, set(settings)), topics.shard.total)
        await _check_settings(admin, settings | own)
        return partitions


async def count_partitions(cluster: Cluster, topics: Topics) -> int:
    """The number of partitions of topics that exist: those that the database knows, where some were added.

    Raises TopicError where one is missing, and KafkaError.
    """
    async with _admin(cluster) as admin:
        names = {name for name, _ in topics.settings()}
        counts = await _partition_counts(admin, names)
    if missing := names - counts.keys():
        raise TopicError(f"There is no topic {', '.join(sorted(missing))}. Check RESOLUTION_TOPIC_PREFIX.")
    if (known := topics.shard.total) is not None and min(counts.values()) >= known:
        return known
    _check_partitions(counts, known)
    return counts[topics.commands]


async def partition_counts(consumer: AIOKafkaConsumer, names: Collection[str]) -> dict[str, int]:
    """Of those of the topics that there are and that this user may see. Raises KafkaError."""
    metadata = ClusterMetadata()
    if not await consumer._client._metadata_update(metadata, names):
        raise KafkaError("no broker tells the topics")
    return {name: len(found) for name in names if (found := metadata.partitions_for_topic(name))}


async def require_topic(cluster: Cluster, name: str) -> None:
    """Raises TopicError where it is missing, and KafkaError."""
    async with _admin(cluster) as admin:
        if not await _partition_counts(admin, {name}):
            raise TopicError(
                f"There is no topic {name}. Check RESOLUTION_TOPIC_PREFIX; `resolution serve` creates missing topics."
            )


async def id_of_topic(cluster: Cluster, name: str) -> UUID:
    """What tells the topic from another of its name. Raises KafkaError."""
    async with _admin(cluster) as admin:
        return await topic_id(admin._client, name)


@asynccontextmanager
async def _admin(cluster: Cluster) -> Any:
    admin = AIOKafkaAdminClient(**cluster.options)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _partition_counts(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Of the topics that there are."""
    return {topic["topic"]: len(topic["partitions"]) for topic in await _descriptions(admin, names)}


async def _descriptions(admin: AIOKafkaAdminClient, names: set[str]) -> list[dict[str, Any]]:
    known = names & set(await admin.list_topics())
    topics = await admin.describe_topics(sorted(known)) if known else []
    return [topic for topic in topics if topic["partitions"]]


async def _ensure_own(admin: AIOKafkaAdminClient, settings: dict[str, dict[str, str]]) -> None:
    # Only what is missing is asked for: a role need not have the right to create topics.
    existing = await _partition_counts(admin, set(settings))
    await _create(admin, {name: settings[name] for name in settings if name not in existing}, 1)
    await _visible(admin, set(settings))


def other_count(counts: dict[str, int], known: int) -> str:
    """The sentence about topics that have another number of partitions than the database knows."""
    listed = ", ".join(f"{name} has {count} partitions" for name, count in sorted(counts.items()))
    return (
        f"{listed}, but the database knows {known}, and with another number an order changes "
        f"its partition. Check RESOLUTION_TOPIC_PREFIX. Kafka cannot take added partitions away: go on with new topics "
        f"of {known} under another prefix (resolution renew-topics; docs/backup.md has the steps)."
    )


async def _visible(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Their partition counts, once the broker knows them: creating one returns a little earlier."""
    for _ in range(_PATIENCE):
        if names <= (counts := await _partition_counts(admin, names)).keys():
            return counts
        await asyncio.sleep(0.1)
    raise TopicError(f"The cluster does not show {', '.join(sorted(names))} after creating them. Look at its log.")


async def _create(admin: AIOKafkaAdminClient, wanted: dict[str, dict[str, str]], partitions: int) -> None:
    if not wanted:
        return
    copies, more = copies_to_ask_for(len(await _brokers(admin)), await _defaults(admin))
    assigned: dict[int, list[int]] | None = {} if copies == -1 else None  # -1 is taken with an assignment only
    new = [NewTopic(name, partitions, copies, assigned, settings | more) for name, settings in wanted.items()]
    answer: Any = await admin.create_topics(new)
    for name, code, *rest in answer.topic_errors:
        if code not in (0, 36):  # 36: it exists, because another process was faster
            raise TopicError(f"Topic {name} cannot be created: {rest or code}. Create it, or grant the right to.")


async def _brokers(admin: AIOKafkaAdminClient) -> list[int]:
    """Their numbers."""
    return [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]


def _check_partitions(counts: dict[str, int], known: int | None) -> None:
    if known is not None and (other := {name: count for name, count in counts.items() if count != known}):
        raise TopicError(other_count(other, known))
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in sorted(counts.items()))
        raise TopicError(
            f"All topics need the same number of partitions, but {listed}. An order would change partitions: create "
            "the topics anew, or choose another RESOLUTION_TOPIC_PREFIX."
        )


async def _check_settings(admin: AIOKafkaAdminClient, wanted: dict[str, dict[str, str]]) -> None:
    """Raises TopicError where the service cannot work with what is set, and warns of what may lose records."""
    settings = {topic: await _settings_of(admin, topic) for topic in wanted}
    for topic, values in settings.items():
        if why := refusal(topic, values, wanted[topic]):
            raise TopicError(why)
        for sentence in doubts(topic, values, wanted[topic]):
            log.warning("%s", sentence)
    copies = await _copies(admin, {*wanted, *_KAFKAS_OWN})
    for sentence in missing_copies(len(await _brokers(admin)), copies, settings):
        log.warning("%s", sentence)


async def _settings_of(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    for _ in range(_PATIENCE):
        code, values = await _configuration(admin, ConfigResourceType.TOPIC, topic)
        if code == _UNAUTHORIZED:
            raise TopicError(f"How {topic} is set may not be seen: grant DescribeConfigs on it (deploy/kafka/acls).")
        if values:
            return values
        await asyncio.sleep(0.1)
    raise TopicError(f"The cluster does not say how {topic} is set. Look at its log.")


async def _defaults(admin: AIOKafkaAdminClient) -> dict[str, str]:
    """A broker's configuration; nothing where this user may not see it."""
    _, values = await _configuration(admin, ConfigResourceType.BROKER, (await _brokers(admin))[0])
    return values


async def _configuration(
    admin: AIOKafkaAdminClient, kind: ConfigResourceType, name: object
) -> tuple[int, dict[str, str]]:
    """Kafka's error code, and what is set on a topic or a broker; nothing where it is not known to this broker yet."""
    responses: list[Any] = await admin.describe_configs([ConfigResource(kind, str(name))])
    [(code, _, _, _, entries)] = responses[0].resources
    return code, {entry[0]: entry[1] for entry in entries}


async def _copies(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Of each topic that there is, the number of copies of the partition with the fewest."""
    topics = await _descriptions(admin, names)
    return {topic["topic"]: min(len(each["replicas"]) for each in topic["partitions"]) for topic in topics}
