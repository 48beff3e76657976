"""Provides the servers that a command needs, and prepares them: schema, topics, shards and clock."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import psycopg
from aiokafka.errors import KafkaError

from services.checkpoints.signing_keys import own_key
from services.clock import Clock
from services.embedded import default_data_dir, embedded
from services.eventstore.database import answer_of_server, connect, refusal_of_server
from services.eventstore.installation_state import read_clock
from services.eventstore.migrate import migrate
from services.eventstore.positions import known_topics, other_topic
from services.kafka.refusals import refusal_of_broker
from services.kafka.topics import TopicError, Topics, count_partitions, ensure_topics, id_of_topic
from services.settings import Settings, SettingsError
from services.shards.arithmetic import Shard
from services.shards.identity import claim_shard, known_partitions, require_shard

_T = TypeVar("_T")

log = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 5.0


@contextmanager
def installation(
    settings: Settings, *, database: bool = True, kafka: bool = True, say: Callable[[str], None] | None = None
) -> Iterator[Settings]:
    """Yields the settings with the URLs of running servers. Starts embedded servers for those that are not configured.

    Raises services.embedded.ServerError if embedded servers cannot be started.
    """
    needs_database = database and settings.database_url is None
    needs_kafka = kafka and settings.kafka_servers is None
    if not (needs_database or needs_kafka):
        yield settings
        return
    data_dir = settings.data_dir or default_data_dir()
    all_own = needs_database and needs_kafka  # a generated key file is good enough for development only
    options = {"say": say} if say else {}
    with embedded(data_dir, database=needs_database, kafka=needs_kafka, **options) as servers:
        yield replace(
            settings,
            data_dir=data_dir,
            database_url=settings.database_url or servers.database,
            kafka_servers=settings.kafka_servers or servers.kafka,
            checkpoint_key_file=settings.checkpoint_key_file
            or (own_key(data_dir / "checkpoints") if all_own else None),
        )


def prepare(settings: Settings) -> list[str]:
    """Brings schema and topics up to date. Returns the migrations that ran. Waits for servers that are not up yet.

    Raises TopicError for topics that the service cannot use, SettingsError if a server refuses the database or the
    credentials, WrongShard if a database belongs to another shard, and SchemaOutdated if a schema lacks migrations that
    this user may not run.
    """
    shards = settings.shards
    ran = [
        f"{shard.shard.prefix}{name}"
        for shard in shards
        for name in _retry("PostgreSQL", partial(migrate, shard.database))
    ]
    counts = (_retry("PostgreSQL", partial(known_partitions, shard.database)) for shard in shards)
    topics = Topics(settings.topic_prefix, Shard(total=next((count for count in counts if count is not None), None)))
    partitions = _retry("Kafka", lambda: asyncio.run(ensure_topics(settings.cluster, topics, len(shards))))
    claim_shards(settings, partitions)
    for shard in shards:
        clock_of(shard)  # stores the clock's origin at the first start, which a role need not have the right to do
    return ran


def require_known_topics(settings: Settings) -> None:
    """Raises TopicError if a database's positions belong to other topics than these."""
    topics = Topics(settings.topic_prefix)
    for shard in settings.shards:
        with connect(shard.database) as connection:
            known = known_topics(connection)
        for consumer, topic in (("commands", topics.commands), ("timer", topics.events)):
            if known.get(consumer, set()) - {asyncio.run(id_of_topic(settings.cluster, topic))}:
                raise TopicError(other_topic(consumer))


def clock_of(settings: Settings) -> Clock:
    """Returns the installation's clock. `settings` have one database. See `read_clock`. Raises psycopg.Error."""
    return read_clock(settings.database, settings.time_origin, settings.time_scale)


def claim_shards(settings: Settings, partitions: int) -> None:
    """Stores in each empty database which shard it is, and gives all of them one clock.

    Raises WrongShard if a database belongs to another shard, and psycopg.Error.
    """
    for shard in settings.shards:
        claim_shard(shard.database, shard.shard, partitions)
        if not shard.shard.alone:
            clock_of(replace(shard, time_origin=clock_of(settings.shards[0]).origin))


def up_to_date(settings: Settings) -> list[Settings]:
    """Migrates the schemas. Returns the settings of each shard, with the partition count that its database knows.

    Raises WrongShard if a database isn't the shard that the settings say, and psycopg.Error.
    """
    for shard in settings.shards:
        migrate(shard.database)
    return as_they_are(settings)


def as_they_are(settings: Settings) -> list[Settings]:
    """Returns what `up_to_date` does, and changes nothing: an auditor may only have the right to read.

    Raises WrongShard if a database isn't the shard that the settings say, and psycopg.Error.
    """
    return [replace(shard, shard=require_shard(shard.database, shard.shard).shard) for shard in settings.shards]


def with_partitions(settings: Settings) -> Settings:
    """Returns the settings with the partition count that the databases know. Stores it in databases that lack it.

    Raises WrongShard if a database isn't the shard that the settings say, TopicError, KafkaError and psycopg.Error.
    """
    identities = [require_shard(shard.database, shard.shard) for shard in settings.shards]
    total = identities[0].shard.total
    if total is None:
        total = asyncio.run(count_partitions(settings.cluster, Topics(settings.topic_prefix)))
        claim_shards(settings, total)
    return replace(settings, shard=replace(settings.shard, total=total))


def shard_of(settings: Settings, order_id: str) -> Settings:
    """Returns the settings of the shard that has an order. Changes nothing.

    Raises WrongShard if a database isn't the shard that the settings say, and psycopg.Error.
    """
    shards = settings.shards
    identities = [require_shard(shard.database, shard.shard) for shard in shards]
    if len(shards) == 1:
        return shards[0]
    return shards[Topics(settings.topic_prefix, identities[0].shard).partition_of(order_id.encode()) % len(shards)]


def _retry(server: str, attempt: Callable[[], _T]) -> _T:
    """Repeats an attempt until the server answers. Raises SettingsError if waiting would not help."""
    pause = 0.2
    while True:
        try:
            return attempt()
        except (psycopg.OperationalError, KafkaError, OSError) as error:
            if why := refusal_of_server(error) or refusal_of_broker(error):
                raise SettingsError(why) from None
            if answer := answer_of_server(error):
                log.warning("PostgreSQL refuses the connection: %s (trying again in %.1f s)", answer, pause)
            else:
                log.warning("%s does not answer, trying again in %.1f s: %s", server, pause, error)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
