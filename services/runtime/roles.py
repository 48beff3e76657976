"""One role in a process of its own, which `serve` starts.

It tells the process that started it when it works. It stops on SIGTERM, on SIGINT, and when that process is gone. It
ends with an error when it cannot continue; `serve` then starts it again.
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
    """What a role is started with. It sets `ready` once it works, and notes in `about` what others should know."""

    settings: Settings
    """With the database of one shard; the role `http` has all of them."""
    topics: Topics
    clock: Clock
    ready: asyncio.Event
    about: dict[str, str] = field(default_factory=dict)


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
    # Here, so that the other roles do not load the web framework.
    from services.http.role import run as serve_http

    def ready(url: str) -> None:
        start.about["http"] = url
        start.ready.set()

    await serve_http(start.settings, start.topics, start.clock, ready)


async def _checkpoints(start: Start) -> None:
    if start.settings.checkpoint_key_file is None:
        log.warning(
            "no checkpoints are written, for there is no key to sign them with: `resolution checkpoints key DIR` makes "
            "one, and RESOLUTION_CHECKPOINT_KEY_FILE names it"
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
    """Runs a role until it is told to stop. Raises what the role cannot go on with.

    `settings` have one database, or all of them for a role of all shards.
    """
    ready, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings = await asyncio.to_thread(with_partitions, settings)
    for one in settings.shards:
        await asyncio.to_thread(_check_master_keys, one)
    clock = await asyncio.to_thread(clock_of, settings.shards[0])
    start = Start(settings, Topics(settings.topic_prefix, settings.shard), clock, ready)
    async with _seen(start, name):
        role = asyncio.ensure_future(ROLES[name](start))
        watchers = [
            asyncio.ensure_future(w)
            for w in (_say_ready(start, name, parent), _watch_parent(parent, stop), stop.wait())
        ]
        await asyncio.wait([role, watchers[-1]], return_when=asyncio.FIRST_COMPLETED)
        if role.cancelled():
            raise RuntimeError("the role was cancelled, and nobody here did that")
        for task in (*watchers, role):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await role


@asynccontextmanager
async def _seen(start: Start, name: str) -> AsyncIterator[None]:
    """What notices that the process gets nowhere; and metrics and health, where a port is given for them."""
    settings = start.settings
    health = Health()
    Guard(health, _end).start()
    watching = [health.beat()]
    with contextlib.ExitStack() as stack:
        if settings.metrics_port is not None:
            stack.enter_context(endpoint(settings.metrics_host, settings.metrics_port, health, settings.shard))
            several = len(settings.shards) > 1
            watches = [_watch(start, name, one, health, one_of_several=several) for one in settings.shards]
            watching += [_started(start, health), *(watch.run() for watch in watches)]
        tasks = [asyncio.ensure_future(task) for task in watching]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _end(why: str) -> None:
    """Ends this process, whose event loop may not turn any more. It may end at any moment without harm."""
    log.critical("ending, to be started again: %s", why)
    logging.shutdown()
    os._exit(os.EX_TEMPFAIL)


def _watch(start: Start, name: str, one: Settings, health: Health, *, one_of_several: bool) -> Watch:
    topics, models = Topics(one.topic_prefix, one.shard), list(READ_MODELS)
    return Watch(
        one.database,
        one.cluster,
        topics,
        start.clock,
        health,
        models,
        role=name,
        one_of_several=one_of_several,
        # Added partitions make no difference to the role http: it stays ready, for its orders are in the others.
        reads_topics=name not in OF_ALL_SHARDS,
    )


async def _started(start: Start, health: Health) -> None:
    await start.ready.wait()
    health.started = True


def _check_master_keys(settings: Settings) -> None:
    with connect(settings.database, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        settings.master_keys.check(connection)


async def _say_ready(start: Start, name: str, parent: Connection) -> None:
    await start.ready.wait()
    parent.send({"ready": name} | start.about)


async def _watch_parent(parent: Connection, stop: asyncio.Event) -> None:
    """The other end says nothing: what there is to read is its end."""
    loop = asyncio.get_running_loop()
    loop.add_reader(parent.fileno(), stop.set)
    try:
        await stop.wait()
    finally:
        loop.remove_reader(parent.fileno())


def tune_interpreter() -> None:
    """For a process that handles many small objects, beside threads that wait for the database."""
    # A thread that comes back from the database waits this long for one that computes, many times a batch.
    sys.setswitchinterval(0.0005)
    # Orders, events and rows hold no cycles; looking for some in a large cache over and over takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main(name: str, parent: Connection) -> None:
    """Runs the role until it is told to stop. `parent` learns when it is ready, or why it cannot start."""
    settings = Settings.from_environment()
    if name not in OF_ALL_SHARDS:
        [settings] = settings.own_shards
    logs.configure(settings.log_format, name)
    fault_points.arm(os.environ.get("RESOLUTION_FAULT"))
    if name == "http":
        import_module("services.http.role")  # takes seconds, in which the event loop would not turn
    tune_interpreter()
    try:
        with traces.exported(name):
            uvloop.run(run(name, settings, parent))
    except (MasterKeyError, SettingsError) as error:
        log.critical("it cannot start: %s", error)
        parent.send({"refused": str(error)})
        sys.exit(2)
