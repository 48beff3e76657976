"""Sets up what the story needs and removes it at the end: its own database and topics, and the roles as processes."""

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from resolution_contracts.client import Client

from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.migrate import migrate
from services.kafka.topics import Topics, ensure_topics
from services.runtime.installation import clock_of
from services.runtime.supervisor import Supervisor
from services.settings import Settings

log = logging.getLogger(__name__)

ROLES = ("commands", "relay", "timer", "projections")
_START_SECONDS = 60


class DemoError(Exception):
    """The demo cannot start or continue. The message says why and what to do."""


class TooSlow(DemoError):
    """The machine is too slow for the speed at which the demo's clock runs."""


@dataclass(frozen=True)
class Stage:
    """The running service that the story uses."""

    settings: Settings
    """The settings of the demo's own database and topics."""
    topics: Topics
    """The demo's topics."""
    partitions: int
    """How many partitions each of these topics has."""
    clock: Clock
    """The clock, whose business time runs faster than real time."""
    roles: Supervisor
    """The supervisor of the role processes."""
    client: Client
    """Sends commands, and reads events and outcomes."""


@asynccontextmanager
async def open_stage(
    settings: Settings, say: Callable[[str], None], *, seconds_for_two_days: int, keep: bool
) -> AsyncIterator[Stage]:
    """Sets everything up on the servers of `settings`, and removes it at the end, even after an error, unless `keep`.

    After TooSlow it is removed in any case. The demo's clock lets two days pass in `seconds_for_two_days`. The roles
    log to a file, which stays if something fails. Raises DemoError, psycopg.Error, KafkaError and TopicError.
    """
    name = f"demo_{uuid4().hex[:12]}"
    server = settings.shards[0].database
    own = replace(
        settings,
        database_url=_url_of(server, name),
        only_shard=None,
        topic_prefix=name.replace("_", "-") + ".",
        time_scale=Fraction(2 * 24 * 3600, seconds_for_two_days),
        time_origin=datetime.now(UTC),
        http_port=0,
    )
    topics = Topics(own.topic_prefix)
    say(f"The demo uses its own database {name} and topics {own.topic_prefix}*")
    async with AsyncExitStack() as removal, AsyncExitStack() as stack:
        log_file = stack.enter_context(_log_file(say))
        _create_database(server, name)
        removal.callback(_drop_database, server, name)
        removal.push_async_callback(_delete_topics, own)
        stack.enter_context(_kept(removal, keep))
        migrate(own.database)
        partitions = await ensure_topics(own.cluster, topics)
        roles = Supervisor(own, log_file=log_file)
        stack.push_async_callback(roles.stop)
        started = time.monotonic()
        roles.start(*ROLES)
        await ready(roles)
        say(f"{len(ROLES)} roles work after {time.monotonic() - started:.1f} s: {', '.join(ROLES)}")
        client = await stack.enter_async_context(Client(**own.cluster.options, prefix=topics.prefix))
        yield Stage(own, topics, partitions, clock_of(own), roles, client)
    if keep:
        say(f"The database {name} and the topics {own.topic_prefix}* stay on the servers.")


@contextmanager
def _kept(removal: AsyncExitStack, keep: bool) -> Iterator[None]:
    """Calls the removal off at the end, unless nothing is to be kept, or the machine was too slow."""
    too_slow = False
    try:
        yield
    except TooSlow:
        too_slow = True
        raise
    finally:
        if keep and not too_slow:
            removal.pop_all()


@contextmanager
def _log_file(say: Callable[[str], None]) -> Iterator[Path]:
    """Yields a file for logs. Deletes it, unless something failed and the file exists. Ctrl-C is not a failure."""
    folder = Path(tempfile.mkdtemp(prefix="resolution-demo-"))
    file = folder / "roles.log"
    failed = False
    try:
        yield file
    except TooSlow:
        raise
    except Exception:
        failed = True
        raise
    finally:
        if failed and file.exists():
            say(f"The roles' log is {file}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _create_database(server_url: str, name: str) -> None:
    # template0, because template1 cannot be copied while anybody is connected to it.
    try:
        _execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0")
    except psycopg.errors.InsufficientPrivilege as error:
        raise DemoError(
            "The demo needs its own database, and this user may not create one. Grant the right with ALTER ROLE ... "
            "CREATEDB, or unset RESOLUTION_DATABASE_URL to use the embedded PostgreSQL."
        ) from error


def _drop_database(server_url: str, name: str) -> None:
    try:
        _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
    except psycopg.Error as error:
        log.warning("the demo's database %s could not be deleted: %s", name, error)


def _execute(url: str, sql: str) -> None:
    with connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def _url_of(server_url: str, database: str) -> str:
    """Returns the server's URL with another database. Does not use urlunsplit, which drops an empty host's slashes."""
    parts = urlsplit(server_url)
    return f"{parts.scheme}://{parts.netloc}/{database}" + (f"?{parts.query}" if parts.query else "")


async def _delete_topics(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(**settings.cluster.options)
    topics = Topics(settings.topic_prefix)
    try:
        await admin.start()
        await admin.delete_topics(topics.names())
    except KafkaError as error:
        log.warning("the demo's topics %s* could not be deleted: %s", settings.topic_prefix, error)
    finally:
        await admin.close()


async def ready(roles: Supervisor) -> None:
    """Waits until all started roles work. Raises DemoError if that takes too long."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            await roles.ready()
    except TimeoutError:
        raise DemoError(f"The roles do not work after {_START_SECONDS} s.") from None
