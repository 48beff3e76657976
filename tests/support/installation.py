"""One installation of the service for one test: its database, its topics, its roles as real processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from resolution_contracts import Command, CommandEnvelope
from resolution_contracts.client import Client

from projections import READ_MODELS, order_page
from services.clock import Clock
from services.embedded import Servers
from services.eventstore.application import OrderStore
from services.eventstore.database import connect
from services.eventstore.migrate import migrate
from services.judging.judge import read
from services.judging.record import Record
from services.kafka.read_topics import read_all
from services.kafka.topics import Topics, ensure_topics
from services.runtime import roles
from services.runtime.installation import claim_shards, clock_of
from services.runtime.supervisor import Supervisor
from services.settings import Settings
from services.shards.arithmetic import Shard

ROLES = ("commands", "relay", "timer", "projections")
"""The roles that run by default. Tests start `http` themselves."""
PARTITIONS = 4
"""Of each topic. For Kafka, creating a partition is more work than all that a test writes to it."""
Json = dict[str, Any]


class Installation:
    """The service as a test uses it from outside."""

    def __init__(self, settings: Settings, partitions: int = PARTITIONS) -> None:
        self.settings = settings
        self.topics = Topics(settings.topic_prefix, Shard(total=partitions))
        self.supervisor = Supervisor(settings)
        self.metrics_ports: dict[str, int] = {}
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._producer: AIOKafkaProducer | None = None
        self._sessions: dict[str, psycopg.Connection[Any]] = {}
        """By URL, the sessions of `query`. A new one for each query costs the server more than the query."""

    @classmethod
    @asynccontextmanager
    async def fresh(
        cls, servers: Servers, shards: int = 1, partitions: int = PARTITIONS, **settings: Any
    ) -> AsyncIterator["Installation"]:
        name = f"test_{uuid4().hex[:12]}"
        assert servers.database is not None
        names = [name, *(f"{name}_{number}" for number in range(1, shards))]
        urls = [urlsplit(servers.database)._replace(path=f"/{name}").geturl() for name in names]
        template = await asyncio.to_thread(_template, servers.database)
        with psycopg.connect(servers.database, autocommit=True) as connection:
            for each in names:
                connection.execute(f"CREATE DATABASE {each} TEMPLATE {template}")
        base = Settings(
            database_url=" ".join(urls), kafka_servers=servers.kafka, topic_prefix=f"{name}.", http_port=0, **settings
        )
        installation = cls(base, partitions)
        claim_shards(base, partitions)
        await ensure_topics(base.cluster, installation.topics, shards)
        try:
            yield installation
        finally:
            await installation.supervisor.stop()
            await installation._stack.aclose()
            await installation._delete_topics()
            installation.disconnect()
            with psycopg.connect(servers.database, autocommit=True) as connection:
                for each in names:
                    connection.execute(f"DROP DATABASE {each} WITH (FORCE)")

    async def _delete_topics(self) -> None:
        """Deletes the topics, so that the broker does not keep those of all tests. It may be down by now."""
        names = {name for one in self.settings.shards for name in Topics(self.topics.prefix, one.shard).names()}
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(5):
                admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka)
                await admin.start()
                try:
                    await admin.delete_topics(sorted(names))
                finally:
                    await admin.close()

    # --- roles ---

    async def run(self, *names: str, scale: int | None = None) -> None:
        """Starts roles (all by default), and returns when they work. `scale` is business seconds per real second."""
        if scale is not None:
            self.settings = replace(self.settings, time_scale=Fraction(scale))
            self.supervisor = Supervisor(self.settings, self.metrics_ports)
        self.supervisor.start(*(names or ROLES))
        async with asyncio.timeout(60):
            await self.supervisor.ready()

    @asynccontextmanager
    async def here(self, *names: str) -> AsyncIterator[None]:
        """Runs roles in this process, where a test can patch them. They start at once, and end as if killed."""
        starts = {name: roles.Start(self.settings, self.topics, self.clock, asyncio.Event()) for name in names}
        running = [asyncio.ensure_future(roles.ROLES[name](start)) for name, start in starts.items()]
        try:
            async with asyncio.timeout(60):
                for start in starts.values():
                    await start.ready.wait()
            yield
        finally:
            for role in running:
                role.cancel()
            await asyncio.wait(running)

    @asynccontextmanager
    async def earlier_here(self, *names: str) -> AsyncIterator[None]:
        """Runs roles as an earlier version, which decoded commands differently and took them from any partition."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("services.commands.role.read", partial(read, as_before=True))
            async with self.here(*names):
                yield

    async def stop(self, *names: str) -> None:
        await self.supervisor.stop(*names)

    @property
    def url(self) -> str:
        """The URL of the http role."""
        return self.supervisor.said["http"]

    @property
    def clock(self) -> Clock:
        return clock_of(self.settings.shards[0])

    # --- Kafka ---

    async def client(self) -> Client:
        if self._client is None:
            self._client = await self._stack.enter_async_context(
                Client(**self.settings.cluster.options, prefix=self.topics.prefix)
            )
        return self._client

    async def send(self, order_id: str, command: Command, *, id: str | None = None) -> Json:
        """Publishes a command and waits for its outcome's envelope."""
        envelope = CommandEnvelope.of(order_id, command, source="/tests", id=id)
        return await self.outcome_of(envelope.subject, envelope.to_json())

    async def outcome_of(self, key: str, value: bytes) -> Json:
        outcome = await (await self.client()).publish(key, value)
        return await asyncio.wait_for(outcome, 60)

    async def publish(self, order_id: str, command: Command, *, id: str | None = None) -> str:
        """Publishes a command without waiting for its outcome. Returns its id."""
        envelope = CommandEnvelope.of(order_id, command, source="/tests", id=id)
        await self.publish_raw(envelope.key, envelope.to_json())
        return envelope.id

    async def publish_raw(
        self, key: bytes | None, value: bytes | None, topic: str | None = None, **options: Any
    ) -> Any:
        if self._producer is None:
            producer = AIOKafkaProducer(**self.settings.cluster.options, max_request_size=4 * 1024 * 1024, linger_ms=0)
            self._stack.push_async_callback(producer.stop)
            await producer.start()  # where the broker is away, the next call tries again
            self._producer = producer
        return await self._producer.send_and_wait(topic or self.topics.commands, key=key, value=value, **options)

    async def read(self, topic: str) -> list[Record]:
        """Returns all committed records of a topic, one partition after another."""
        return (await read_all(self.settings.cluster, topic))[topic]

    async def events(self, order_id: str | None = None) -> list[Json]:
        """Returns the public events of one order, or of all."""
        events = [json.loads(record.value or b"") for record in await self.read(self.topics.events)]
        return [event for event in events if order_id in (None, event["subject"])]

    async def outcomes(self) -> list[Json]:
        return [json.loads(record.value or b"") for record in await self.read(self.topics.outcomes)]

    async def until_published(self, seconds: float = 60) -> None:
        """Waits until every record of the commands topic has its outcome or dead letter on Kafka."""
        wanted = len(await self.read(self.topics.commands))

        async def answered() -> bool:
            dead = await self.read(self.topics.dead_letters)
            return len(await self.outcomes()) + len(dead) >= wanted

        await until(answered, seconds)

    async def until_quiet(self, seconds: float = 120) -> None:
        """Waits until no dispute is open, the timer has nothing to ask, and everything is published."""
        async with asyncio.timeout(seconds):
            await self.until_published(seconds)
            await until(
                lambda: self._open_disputes() == 0 and not self.query_all("SELECT 1 FROM deadlines LIMIT 1"), seconds
            )
            commands = -1
            while (now := len(await self.read(self.topics.commands))) != commands:
                commands = now
                await self.until_published(seconds)
                await asyncio.sleep(1)

    async def until_projected(self) -> None:
        """Waits until every read model has all events."""
        for number in range(len(self.settings.shards)):
            await until(lambda number=number: self._is_projected(number))

    def _is_projected(self, shard: int) -> bool:
        [(last,)] = self.query("SELECT max(notification_id) FROM order_events", shard=shard)
        positions = dict(self.query("SELECT * FROM projection_tracking", shard=shard))
        return all(positions.get(name) == last for name in READ_MODELS)

    def _open_disputes(self) -> int:
        settled = "'Accepted', 'AutoAccepted', 'Declined', 'DisputeClosed', 'Withdrawn'"
        counts = self.query_all(
            f"SELECT count(*) FILTER (WHERE name = 'DisputeOpened') - count(*) FILTER (WHERE name IN ({settled})) "
            "FROM (SELECT split_part(topic, '.', 1) AS name FROM order_events) AS e"
        )
        return sum(count for (count,) in counts)

    # --- PostgreSQL ---

    def query(self, sql: str, parameters: Sequence[Any] = (), shard: int = 0) -> list[tuple[Any, ...]]:
        cursor = self._session(self.settings.shards[shard].database).execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []

    def _session(self, url: str) -> psycopg.Connection[Any]:
        """The session kept for `query`, or a new one if there is none or its server was stopped since."""
        if (kept := self._sessions.get(url)) is not None:
            with suppress(psycopg.OperationalError):
                kept.execute("SELECT 1")
                return kept
        connection = self._sessions[url] = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        return connection

    def disconnect(self) -> None:
        """Closes the sessions of `query`, for PostgreSQL copies and deletes only databases without any."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    @contextmanager
    def holding(self, table: str) -> Iterator[None]:
        """Locks a table in an open transaction, so that nobody else can write to it."""
        with psycopg.connect(self.settings.database) as connection:
            connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield
            connection.rollback()

    def query_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Returns the rows of all shards."""
        return [row for number in range(len(self.settings.shards)) for row in self.query(sql, shard=number)]

    def store(self) -> OrderStore:
        return OrderStore(self.settings.database, self.settings.master_keys)

    def page(self, order_id: str, viewer: str | None = None) -> Json | None:
        with connect(self.settings.database) as connection:
            return order_page.look(connection, self.settings.master_keys, order_id, viewer, self.clock.now())


_templates: dict[str, str] = {}


def _template(server: str) -> str:
    """Returns a database with the newest schema to copy, which takes a quarter of the time of migrating."""
    with psycopg.connect(server, autocommit=True) as connection:
        name = _templates.get(server)
        if name and connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return name  # checked in the database, because another server may have this address by now
        name = f"template_{uuid4().hex[:12]}"
        connection.execute(f"CREATE DATABASE {name}")
    migrate(urlsplit(server)._replace(path=f"/{name}").geturl())
    with psycopg.connect(server, autocommit=True) as connection:  # a pooler's open connection would prevent copying
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
    _templates[server] = name
    return name


def drop_template(server: str) -> None:
    """Deletes the template after the last test on a server."""
    if name := _templates.pop(server, None):
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits until a condition, plain or async, holds. Returns its value."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.05)
