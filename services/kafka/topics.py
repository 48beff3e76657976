"""The topics: their names, their creation, and the check that they are set as the service needs them."""

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

from services.failures import Failure
from services.judging.partitioner import partition_of
from services.shards.arithmetic import ALONE, Shard

from .cluster import Cluster
from .topic_ids import topic_id
from .topic_settings import copies_to_ask_for, doubts, missing_copies, refusal

log = logging.getLogger(__name__)

DEFAULT_PARTITIONS = 8
_ATTEMPTS = 300
_ATTEMPT_SECONDS = 0.1
_UNAUTHORIZED = 29
_KAFKAS_OWN = ("__consumer_offsets", "__transaction_state")
_DAY_MS = 24 * 60 * 60 * 1000
LARGEST_RECORD = 4 * 1024 * 1024
"""The largest record in bytes that the broker accepts on the commands topic. It is more than a command may have, so
that a command that is too large becomes a dead letter."""
_LARGE_RECORDS = {"max.message.bytes": str(LARGEST_RECORD)}


class TopicError(Failure):
    """The service cannot use a topic. The message names the topic, the reason and what to do."""


@dataclass(frozen=True)
class Topics:
    """The topics of one installation. Each shard has its own `relay` and `checkpoints`; the shards share the others."""

    prefix: str
    shard: Shard = ALONE

    @property
    def partitions(self) -> int:
        """The number of partitions that the database knows, of each topic but `relay` and `checkpoints`."""
        assert self.shard.total is not None
        return self.shard.total

    def partition_of(self, key: bytes) -> int:
        """Returns the partition of an order's records. Partitions that were added later do not change it."""
        return partition_of(key, self.partitions)

    @property
    def commands(self) -> str:
        """Commands from other services and from the http and timer roles."""
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
        """Reminders for parties."""
        return self.prefix + "notifications"

    @property
    def relay(self) -> str:
        """The relay's position. One partition, compacted. Only the service itself reads it."""
        return self.prefix + "relay" + self.shard.suffix

    @property
    def checkpoints(self) -> str:
        """Signed hashes of the event store, for auditors. One partition, kept for ever."""
        return self.prefix + "checkpoints" + self.shard.suffix

    def names(self) -> list[str]:
        """Returns the names of all topics, including those that only the roles read."""
        return [name for name, _ in chain(self.settings(), self.own_settings())]

    def settings(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields the name and the settings of each topic that other services use."""
        yield (
            self.commands,
            {"message.timestamp.type": "LogAppendTime", "retention.ms": str(365 * _DAY_MS)} | _LARGE_RECORDS,
        )
        yield self.events, {"retention.ms": "-1"}
        yield self.outcomes, {"retention.ms": str(30 * _DAY_MS)}
        yield self.notifications, {"retention.ms": str(30 * _DAY_MS)}
        yield self.dead_letters, {"retention.ms": str(365 * _DAY_MS)} | _LARGE_RECORDS

    def own_settings(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields the name and the settings of each topic with one partition."""
        yield self.relay, {"cleanup.policy": "compact", "segment.bytes": str(1024 * 1024)}
        yield self.checkpoints, {"retention.ms": "-1", "retention.bytes": "-1"}


async def ensure_topics(cluster: Cluster, topics: Topics, shards: int = 1) -> int:
    """Creates missing topics and checks all of them. Returns the number of partitions.

    `shards` is the number of databases. Raises TopicError if a topic's settings or partition count do not suit the
    service, and KafkaError if the cluster does not answer. Logs a warning for settings that may lose records.
    """
    settings = dict(topics.settings())
    of_shards = (replace(topics, shard=Shard(number, shards)).own_settings() for number in range(shards))
    own = dict(chain.from_iterable(of_shards))
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
    """Returns the number of partitions of existing topics. If partitions were added, the number in the database counts.

    Raises TopicError if a topic is missing, and KafkaError.
    """
    async with _admin(cluster) as admin:
        names = {name for name, _ in topics.settings()}
        counts = await _partition_counts(admin, names)
    if missing := names - counts.keys():
        raise TopicError(_no_topic(missing))
    if (known := topics.shard.total) is not None and min(counts.values()) >= known:
        return known
    _check_partitions(counts, known)
    return counts[topics.commands]


async def partition_counts(consumer: AIOKafkaConsumer, names: Collection[str]) -> dict[str, int]:
    """Returns the number of partitions by topic. Leaves out topics that are missing or that this user may not see.

    Raises KafkaError.
    """
    metadata = ClusterMetadata()
    if not await consumer._client._metadata_update(metadata, names):
        raise KafkaError("no broker sends metadata of the topics")
    return {name: len(numbers) for name in names if (numbers := metadata.partitions_for_topic(name))}


async def require_topics(cluster: Cluster, *names: str) -> None:
    """Raises TopicError if a topic is missing or this user may not see it, and KafkaError."""
    async with _admin(cluster) as admin:
        if missing := set(names) - (await _partition_counts(admin, set(names))).keys():
            raise TopicError(_no_topic(missing))


def _no_topic(missing: Collection[str]) -> str:
    return (
        f"There is no topic {', '.join(sorted(missing))} that this user may see. Run `resolution migrate`, which "
        "creates missing topics, or correct RESOLUTION_TOPIC_PREFIX."
    )


async def id_of_topic(cluster: Cluster, name: str) -> UUID:
    """Returns the topic's id, which is another one after the topic was created again. Raises KafkaError."""
    async with _admin(cluster) as admin:
        return await topic_id(admin._client, name)


@asynccontextmanager
async def _admin(cluster: Cluster) -> Any:
    admin = AIOKafkaAdminClient(**cluster.options)
    try:
        await admin.start()
        yield admin
    finally:
        await admin._client.close()  # `admin.close` does nothing before `start` has ended


async def _partition_counts(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Returns the number of partitions by topic. Leaves out topics that do not exist."""
    return {topic["topic"]: len(topic["partitions"]) for topic in await _descriptions(admin, names)}


async def _descriptions(admin: AIOKafkaAdminClient, names: set[str]) -> list[dict[str, Any]]:
    known = names & set(await admin.list_topics())
    topics = await admin.describe_topics(sorted(known)) if known else []
    return [topic for topic in topics if topic["partitions"]]


async def _ensure_own(admin: AIOKafkaAdminClient, settings: dict[str, dict[str, str]]) -> None:
    # Ask for missing topics only, because a role need not have the right to create topics.
    existing = await _partition_counts(admin, set(settings))
    await _create(admin, {name: settings[name] for name in settings if name not in existing}, 1)
    await _visible(admin, set(settings))


def other_count(counts: dict[str, int], known: int) -> str:
    """Returns the sentence about topics that have another number of partitions than the database knows."""
    listed = ", ".join(f"{name} has {count} partitions" for name, count in sorted(counts.items()))
    return (
        f"{listed}, but the database knows {known}, and with another number an order changes "
        f"its partition. Check RESOLUTION_TOPIC_PREFIX. Kafka cannot remove partitions. If some were added, continue "
        f"with new topics of {known} under another prefix (resolution renew-topics; docs/backup.md has the steps)."
    )


async def _visible(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Waits until the broker shows new topics, and returns their partition counts. Raises TopicError after 30 s."""
    for _ in range(_ATTEMPTS):
        if names <= (counts := await _partition_counts(admin, names)).keys():
            return counts
        await asyncio.sleep(_ATTEMPT_SECONDS)
    raise TopicError(f"The cluster does not show {', '.join(sorted(names))} after creating them. Look at its log.")


async def _create(admin: AIOKafkaAdminClient, wanted: dict[str, dict[str, str]], partitions: int) -> None:
    if not wanted:
        return
    copies, more = copies_to_ask_for(len(await _brokers(admin)), await _defaults(admin))
    assigned: dict[int, list[int]] | None = {} if copies == -1 else None  # aiokafka takes -1 only with an assignment
    new = [NewTopic(name, partitions, copies, assigned, settings | more) for name, settings in wanted.items()]
    answer: Any = await admin.create_topics(new)
    for name, code, *rest in answer.topic_errors:
        if code not in (0, 36):  # 36: the topic exists, because another process was faster
            raise TopicError(
                f"Topic {name} cannot be created: {rest or code}. Create it, or grant this user the right to create it."
            )


async def _brokers(admin: AIOKafkaAdminClient) -> list[int]:
    """Returns the brokers' ids."""
    return [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]


def _check_partitions(counts: dict[str, int], known: int | None) -> None:
    if known is not None and (other := {name: count for name, count in counts.items() if count != known}):
        raise TopicError(other_count(other, known))
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in sorted(counts.items()))
        raise TopicError(
            f"All topics need the same number of partitions, but {listed}. An order would change partitions. Create "
            "the topics again, or choose another RESOLUTION_TOPIC_PREFIX."
        )


async def _check_settings(admin: AIOKafkaAdminClient, wanted: dict[str, dict[str, str]]) -> None:
    """Raises TopicError for settings that the service cannot work with. Warns of settings that may lose records."""
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
    for _ in range(_ATTEMPTS):
        code, values = await _configuration(admin, ConfigResourceType.TOPIC, topic)
        if code == _UNAUTHORIZED:
            raise TopicError(
                f"This user may not read the settings of topic {topic}. Grant DescribeConfigs on it "
                "(deploy/kafka/acls)."
            )
        if values:
            return values
        await asyncio.sleep(_ATTEMPT_SECONDS)
    raise TopicError(f"The cluster does not return the settings of topic {topic}. Look at its log.")


async def _defaults(admin: AIOKafkaAdminClient) -> dict[str, str]:
    """Returns a broker's configuration, empty if this user may not see it."""
    _, values = await _configuration(admin, ConfigResourceType.BROKER, (await _brokers(admin))[0])
    return values


async def _configuration(
    admin: AIOKafkaAdminClient, kind: ConfigResourceType, name: object
) -> tuple[int, dict[str, str]]:
    """Returns Kafka's error code, and the settings of a topic or a broker. A new topic may not have any yet."""
    responses: list[Any] = await admin.describe_configs([ConfigResource(kind, str(name))])
    [(code, _, _, _, entries)] = responses[0].resources
    return code, {entry[0]: entry[1] for entry in entries}


async def _copies(admin: AIOKafkaAdminClient, names: set[str]) -> dict[str, int]:
    """Returns for each existing topic the number of copies of its partition with the fewest."""
    topics = await _descriptions(admin, names)
    return {topic["topic"]: min(len(part["replicas"]) for part in topic["partitions"]) for topic in topics}
