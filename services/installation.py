"""The servers behind a command: those the environment names, the embedded ones for the rest."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import psycopg
from aiokafka.errors import KafkaError

from services.checkpoints.keys import own_key
from services.kafka.topics import TopicError, Topics, ensure_topics, id_of_topic
from services.servers import default_data_dir, embedded
from services.settings import Settings
from services.store import migrate
from services.store.origin import clock_of
from services.store.positions import known_topics, other_topic

_T = TypeVar("_T")

log = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 5.0


@contextmanager
def installation(
    settings: Settings, *, database: bool = True, kafka: bool = True, say: Callable[[str], None] | None = None
) -> Iterator[Settings]:
    """The settings with the URLs of servers that run, for as long as they are needed.

    Raises services.servers.ServerError where the embedded ones cannot be started.
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

    Raises TopicError for topics that the service cannot work with, and SchemaOutdated where the schema lacks migrations
    and this user may not run them.
    """
    ran = _patiently("PostgreSQL", lambda: migrate(settings.database))
    _patiently("PostgreSQL", lambda: clock_of(settings))  # the first start; a role need not have the right to note it
    _patiently("Kafka", lambda: asyncio.run(ensure_topics(settings.cluster, Topics(settings.topic_prefix))))
    return ran


def require_known_topics(settings: Settings) -> None:
    """Raises TopicError where the database has read other topics than these."""
    topics = Topics(settings.topic_prefix)
    with psycopg.connect(settings.database) as connection:
        known = known_topics(connection)
    for consumer, topic in (("commands", topics.commands), ("timer", topics.events)):
        if known.get(consumer, set()) - {asyncio.run(id_of_topic(settings.cluster, topic))}:
            raise TopicError(other_topic(consumer))


def _patiently(server: str, attempt: Callable[[], _T]) -> _T:
    pause = 0.2
    while True:
        try:
            return attempt()
        except (psycopg.OperationalError, KafkaError, OSError) as error:
            log.warning("%s does not answer, trying again in %.1f s: %s", server, pause, error)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
