"""Runs one role in its own process, which `serve` starts.

The process reports to `serve` when the role works. It stops on SIGTERM or SIGINT, and when `serve` is gone. If the role
cannot continue, the process exits, and the supervisor starts it again.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection

import uvloop

from projections import READ_MODELS
from projections.framework.follower import Follower
from projections.framework.projector import Projector
from projections.send_reminders import ReminderSender
from services import fault_points
from services.checkpoints.role import CheckpointsRole
from services.clock import Clock
from services.commands.role import CommandsRole
from services.eventstore.application import OrderStore
from services.eventstore.commit_listener import CommitListener
from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect
from services.kafka.topics import Topics
from services.relay.role import publish_for_ever
from services.runtime.installation_metrics import Watch
from services.sealing.master_keys import MasterKeyError
from services.settings import Settings, SettingsError
from services.telemetry import logs, traces
from services.telemetry.endpoint import endpoint
from services.telemetry.health import Guard, Health
from services.timer.role import TimerRole

from .installation import clock_of, with_partitions
from .role_names import OF_ALL_SHARDS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a role is started with, and what it reports when it works."""

    settings: Settings
    """Settings with the database of one shard. The http role has the databases of all shards."""
    topics: Topics
    """The topics of this shard."""
    clock: Clock
    """Gives the business time."""
    ready: asyncio.Event
    """The role sets this once it works."""
    about: dict[str, str] = field(default_factory=dict)
    """What the role reports to the supervisor, such as its URL."""


async def _commands(start: Start) -> None:
    settings = start.settings
    role = CommandsRole(settings.cluster, start.topics, settings.database, settings.master_keys, start.clock)
    await role.run(start.ready)


async def _timer(start: Start) -> None:
    settings = start.settings
    await TimerRole(settings.cluster, start.topics, settings.database, start.clock).run(start.ready)


async def _relay(start: Start) -> None:
    settings = start.settings
    await publish_for_ever(settings.cluster, start.topics, settings.database, settings.master_keys, start.ready)


async def _projections(start: Start) -> None:
    url = start.settings.database
    store = OrderStore(url, start.settings.master_keys, answer_within=ANSWER_WITHIN_SECONDS)
    projectors = [Projector(store, model()) for model in READ_MODELS.values()]
    for projector in projectors:
        await asyncio.to_thread(projector.prepare)
    changes = await CommitListener.listen(url)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(Follower(projectors).run(changes))
            group.create_task(ReminderSender(url, start.clock).run())
            start.ready.set()
    finally:
        await changes.close()
        store.close()


async def _http(start: Start) -> None:
    # Imported here, so that the other roles do not load the web framework.
    from services.http.role import run as serve_http

    def ready(url: str) -> None:
        start.about["http"] = url
        start.ready.set()

    await serve_http(start.settings, start.topics, start.clock, ready)


async def _checkpoints(start: Start) -> None:
    if start.settings.checkpoint_key_file is None:
        log.warning(
            "no checkpoints are written, because there is no key to sign them with. Make one with "
            "`resolution checkpoints key DIR`, and set RESOLUTION_CHECKPOINT_KEY_FILE to it"
        )
        start.ready.set()
        await asyncio.Event().wait()
    await CheckpointsRole(start.settings, start.topics).run(start.ready)


ROLES: dict[str, Callable[[Start], Awaitable[None]]] = {
    "commands": _commands,
    "timer": _timer,
    "relay": _relay,
    "projections": _projections,
    "http": _http,
    "checkpoints": _checkpoints,
}


async def run(name: str, settings: Settings, parent: Connection) -> None:
    """Runs a role until the process has to stop. Raises the error that ends the role.

    `settings` have the database of one shard, or all databases for a role that serves all shards.
    """
    ready, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings = await asyncio.to_thread(with_partitions, settings)
    for shard in settings.shards:
        await asyncio.to_thread(_check_master_keys, shard)
    clock = await asyncio.to_thread(clock_of, settings.shards[0])
    start = Start(settings, Topics(settings.topic_prefix, settings.shard), clock, ready)
    async with _observed(start, name):
        role = asyncio.ensure_future(ROLES[name](start))
        watching = (_report_ready(start, name, parent), _watch_parent(parent, stop), stop.wait())
        watchers = [asyncio.ensure_future(watch) for watch in watching]
        await asyncio.wait([role, watchers[-1]], return_when=asyncio.FIRST_COMPLETED)
        if role.cancelled():
            raise RuntimeError("the role was cancelled, but this process did not cancel it")
        for task in (*watchers, role):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await role


@asynccontextmanager
async def _observed(start: Start, name: str) -> AsyncIterator[None]:
    """Guards the process while the context is open. Serves metrics and health if the settings have a port for them."""
    settings = start.settings
    health = Health()
    Guard(health, _end).start()
    watching = [health.beat()]
    with contextlib.ExitStack() as stack:
        if settings.metrics_port is not None:
            stack.enter_context(endpoint(settings.metrics_host, settings.metrics_port, health, settings.shard))
            several = len(settings.shards) > 1
            watches = [_watch(start, name, shard, health, one_of_several=several) for shard in settings.shards]
            watching += [_started(start, health), *(watch.run() for watch in watches)]
        tasks = [asyncio.ensure_future(task) for task in watching]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _end(why: str) -> None:
    """Ends this process at once, because its event loop may hang. A role may end at any moment without harm."""
    log.critical("ending, to be started again: %s", why)
    logging.shutdown()
    os._exit(os.EX_TEMPFAIL)


def _watch(start: Start, name: str, settings: Settings, health: Health, *, one_of_several: bool) -> Watch:
    topics, models = Topics(settings.topic_prefix, settings.shard), list(READ_MODELS)
    return Watch(
        settings.database,
        settings.cluster,
        topics,
        start.clock,
        health,
        models,
        role=name,
        one_of_several=one_of_several,
        # The http role stays ready when partitions were added, because the orders that it knows are in the others.
        reads_topics=name not in OF_ALL_SHARDS,
    )


async def _started(start: Start, health: Health) -> None:
    await start.ready.wait()
    health.started = True


def _check_master_keys(settings: Settings) -> None:
    with connect(settings.database, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        settings.master_keys.check(connection)


async def _report_ready(start: Start, name: str, parent: Connection) -> None:
    await start.ready.wait()
    parent.send({"ready": name} | start.about)


async def _watch_parent(parent: Connection, stop: asyncio.Event) -> None:
    """Sets `stop` when the parent process is gone. It sends nothing, so the connection is readable only at its end."""
    loop = asyncio.get_running_loop()
    loop.add_reader(parent.fileno(), stop.set)
    try:
        await stop.wait()
    finally:
        loop.remove_reader(parent.fileno())


def tune_interpreter() -> None:
    """Tunes a process that handles many small objects while other threads wait for the database."""
    # A thread that returns from the database waits up to this long for a thread that computes, many times per batch.
    sys.setswitchinterval(0.0005)
    # Orders, events and rows have no reference cycles. Searching a large cache for cycles took a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main(name: str, parent: Connection) -> None:
    """Runs a role, and reports to `parent` when it is ready, or why it cannot start."""
    settings = Settings.from_environment()
    if name not in OF_ALL_SHARDS:
        [settings] = settings.own_shards
    logs.configure(settings.log_format, name)
    fault_points.arm(os.environ.get("RESOLUTION_FAULT"))
    if name == "http":
        import_module("services.http.role")  # if the fork server has not: the event loop would hang for a second
    tune_interpreter()
    try:
        with traces.exported(name):
            uvloop.run(run(name, settings, parent))
    except (MasterKeyError, SettingsError) as error:
        log.critical("role %s cannot start: %s", name, error)
        parent.send({"refused": str(error)})
        sys.exit(2)
