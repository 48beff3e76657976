"""One role in a process of its own: `python -m services.roles NAME`, started by `serve`.

It says on stdout when it works, stops on SIGTERM, SIGINT, or when the process that started it is gone (its stdin
ends), and dies when it cannot go on: who started it starts it again.
"""

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvloop
from faststream.kafka import KafkaBroker

from projections.order_page import OrderPages
from projections.projector import Projector
from services.clock import Clock
from services.commands.role import CommandsRole
from services.kafka.topics import Topics
from services.relay.role import RelayRole
from services.settings import Settings
from services.store import OrderStore
from services.store.changes import Changes
from services.store.origin import clock_of
from services.timer.role import TimerRole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a role is started with. It sets `ready` once it works."""

    settings: Settings
    topics: Topics
    clock: Clock
    ready: asyncio.Event


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(
        settings.kafka.split(","), client_id="resolution", consumer_only=True, apply_types=False, logger=None
    )
    try:
        yield broker
    finally:
        await broker.stop()


async def _commands(start: Start) -> None:
    async with _broker(start.settings) as broker:
        role = CommandsRole(broker, start.topics, start.settings.database, start.clock)
        try:
            await broker.start()
            await role.consumer.assigned()
            start.ready.set()
            await role.consumer.report_lag()
        finally:
            await broker.stop()
            role.close()


async def _timer(start: Start) -> None:
    async with _broker(start.settings) as broker:
        role = TimerRole(broker, start.settings.kafka, start.topics, start.settings.database, start.clock)
        await broker.start()
        await role.consumer.assigned()
        start.ready.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(role.run())
            group.create_task(role.consumer.report_lag())


async def _relay(start: Start) -> None:
    await RelayRole(start.settings.kafka, start.topics, start.settings.database).run(start.ready)


async def _projections(start: Start) -> None:
    store = OrderStore(start.settings.database)
    projector = Projector(store, OrderPages())
    await asyncio.to_thread(projector.prepare)
    changes = await Changes.listen(start.settings.database)
    try:
        start.ready.set()
        await projector.run(changes)
    finally:
        await changes.close()
        store.close()


ROLES: dict[str, Callable[[Start], Awaitable[None]]] = {
    "commands": _commands,
    "timer": _timer,
    "relay": _relay,
    "projections": _projections,
}


async def run(name: str, settings: Settings) -> None:
    """Runs a role until it is told to stop. Raises what the role cannot go on with."""
    ready, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = await asyncio.to_thread(clock_of, settings)
    start = Start(settings, Topics(settings.topic_prefix), clock, ready)
    role = asyncio.ensure_future(ROLES[name](start))
    watchers = [asyncio.ensure_future(w) for w in (_say_ready(ready, name), _parent_gone(stop), stop.wait())]
    await asyncio.wait([role, watchers[-1]], return_when=asyncio.FIRST_COMPLETED)
    for task in (*watchers, role):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await role


async def _say_ready(ready: asyncio.Event, name: str) -> None:
    await ready.wait()
    print(json.dumps({"ready": name}), flush=True)


async def _parent_gone(stop: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()


def main() -> None:
    name = sys.argv[1]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {name} %(levelname)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    # A thread that comes back from the database waits this long for one that computes, many times a batch.
    sys.setswitchinterval(0.0005)
    # Orders, events and rows hold no cycles; looking for some in a large cache over and over takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    uvloop.run(run(name, Settings.from_environment()))


if __name__ == "__main__":
    main()
