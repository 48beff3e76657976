"""The servers behind a command: those the environment names, the embedded ones for the rest."""

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
from services.eventstore.database import connect, refusal_of_server
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
    """The settings with the URLs of servers that run, for as long as they are needed.

    Raises services.embedded.ServerError where the embedded ones cannot be started.
    """
    needs_database = database and settings.database_url is None
    needs_kafka = kafka and settings.kafka_servers is None
    if not (needs_database or needs_kafka):
        yield settings
        return
    data_dir = settings.data_dir or default_data_dir()
    all_own = needs_database and needs_kafka  # for development: signing with a key that lies around is right there only
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
    """Brings schema and topics up to date; returns the migrations that ran. Waits for servers that are not up yet.

    Raises TopicError for topics that the service cannot work with, SettingsError where the database server refuses the
    URL's user or database, or Kafka the credentials, WrongShard for such databases, and SchemaOutdated
    where a schema lacks migrations and this user may not run them.
    """
    shards = settings.shards
    ran = [
        f"{one.shard.prefix}{name}"
        for one in shards
        for name in _patiently("PostgreSQL", partial(migrate, one.database))
    ]
    counts = (_patiently("PostgreSQL", partial(known_partitions, one.database)) for one in shards)
    topics = Topics(settings.topic_prefix, Shard(total=next((count for count in counts if count is not None), None)))
    partitions = _patiently("Kafka", lambda: asyncio.run(ensure_topics(settings.cluster, topics, len(shards))))
    claim_shards(settings, partitions)
    for one in shards:
        clock_of(one)  # the first start; a role need not have the right to note it
    return ran


def require_known_topics(settings: Settings) -> None:
    """Raises TopicError where a database has read other topics than these."""
    topics = Topics(settings.topic_prefix)
    for one in settings.shards:
        with connect(one.database) as connection:
            known = known_topics(connection)
        for consumer, topic in (("commands", topics.commands), ("timer", topics.events)):
            if known.get(consumer, set()) - {asyncio.run(id_of_topic(settings.cluster, topic))}:
                raise TopicError(other_topic(consumer))


def clock_of(settings: Settings) -> Clock:
    """The clock of an installation, by the settings with one database. See `read_clock`. Raises psycopg.Error."""
    return read_clock(settings.database, settings.time_origin, settings.time_scale)


def claim_shards(settings: Settings, partitions: int) -> None:
    """Makes empty databases the shards that the settings say, with one clock.

    Raises WrongShard where one has something of another, and psycopg.Error.
    """
    for one in settings.shards:
        claim_shard(one.database, one.shard, partitions)
        if not one.shard.alone:
            clock_of(replace(one, time_origin=clock_of(settings.shards[0]).origin))


def up_to_date(settings: Settings) -> list[Settings]:
    """The settings of each shard, its schema up to date, with the number of partitions that its database knows.

    Raises WrongShard where a database is not what the settings say, and psycopg.Error.
    """
    for one in settings.shards:
        migrate(one.database)
    return [replace(one, shard=require_shard(one.database, one.shard).shard) for one in settings.shards]


def with_partitions(settings: Settings) -> Settings:
    """The settings with the number of partitions that the databases know. One that does not know it yet learns it.

    Raises WrongShard where a database is not what the settings say, TopicError, KafkaError and psycopg.Error.
    """
    places = [require_shard(one.database, one.shard) for one in settings.shards]
    total = places[0].shard.total
    if total is None:
        total = asyncio.run(count_partitions(settings.cluster, Topics(settings.topic_prefix)))
        claim_shards(settings, total)
    return replace(settings, shard=replace(settings.shard, total=total))


def shard_of(settings: Settings, order_id: str) -> Settings:
    """The settings of the shard that has an order. Only reads.

    Raises WrongShard where a database is not what the settings say, and psycopg.Error.
    """
    shards = settings.shards
    places = [require_shard(one.database, one.shard) for one in shards]
    if len(shards) == 1:
        return shards[0]
    return shards[Topics(settings.topic_prefix, places[0].shard).partition_of(order_id.encode()) % len(shards)]


def _patiently(server: str, attempt: Callable[[], _T]) -> _T:
    pause = 0.2
    while True:
        try:
            return attempt()
        except (psycopg.OperationalError, KafkaError, OSError) as error:
            if why := refusal_of_server(error):
                raise SettingsError(
                    f"PostgreSQL refuses the connection: {why}. Waiting does not help: correct "
                    "RESOLUTION_DATABASE_URL, or create what is missing on the server."
                ) from None
            if why := refusal_of_broker(error):
                raise SettingsError(why) from None
            log.warning("%s does not answer, trying again in %.1f s: %s", server, pause, error)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
