"""Measures the service: its throughput with a backlog, and its latency with single commands."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from resolution_contracts import Accept, CommandEnvelope, OpenDispute, OrderUpdateRequest
from resolution_contracts.client import Client

from bench.load import life
from bench.processor_time import ProcessorTime, microseconds_each
from services.kafka.topics import DEFAULT_PARTITIONS, Topics
from services.runtime.supervisor import Supervisor, processes_of
from services.settings import Settings

_T = TypeVar("_T")

_WARM_SECONDS = 20
"""How long a new broker compiles its code, on the same cores that are measured."""

STEADY_ORDERS = 20


@asynccontextmanager
async def running(settings: Settings, *roles: str) -> AsyncIterator[Supervisor]:
    """Runs roles in their own processes. When they end, stores the peak memory of each in `PEAKS`."""
    supervisor = Supervisor(settings)
    supervisor.start(*roles)
    try:
        yield supervisor
    finally:
        for role in roles:
            for name in processes_of(settings, role):
                if (pid := supervisor.pid(name)) is not None:
                    PEAKS[role] = max(PEAKS.get(role, 0), _peak_mb(pid))
        await supervisor.stop()


PEAKS: dict[str, float] = {}
"""Peak memory by role, in megabytes."""


def _peak_mb(pid: int) -> float:
    """Returns the peak of resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1000


async def backlog(
    settings: Settings, commands: int, *, processes: int = 1, already: int = 0, warm: int = 1
) -> dict[str, float]:
    """Measures commands processes on a full topic, from the outcome number `warm` to the last one.

    `processes` is their number for each shard, and `already` how many outcomes the store has before. `busy` in the
    result is the share of all cores that all processes of the machine used meanwhile.
    """
    async with AsyncExitStack() as stack:
        for _ in range(processes):
            await stack.enter_async_context(running(settings, "commands"))
        shards = [stack.enter_context(psycopg.connect(one.database, autocommit=True)) for one in settings.shards]
        first, started = await _count(shards, already + warm)
        psutil.cpu_percent()
        last, ended = await _count(shards, already + commands)
        busy = psutil.cpu_percent() / 100
    return {"per_second": (last - first) / (ended - started), "busy": busy}


async def relay_backlog(settings: Settings, commands: int) -> dict[str, float]:
    """Measures the relay on the backlog's outcomes and events, from its start until the last one is on Kafka."""
    async with outcomes_of(settings) as seen, running(settings, "relay") as supervisor:
        await supervisor.ready()
        started = time.perf_counter()
        await seen(commands)
        return {"per_second": commands / (time.perf_counter() - started)}


@asynccontextmanager
async def outcomes_of(settings: Settings) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
    """Yields a function that reads the outcomes topic as `read_committed` until it has a number of outcomes.

    It returns how many it has. It does not decode them, which leaves the processors to what is measured.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    seen = 0

    async def until(wanted: int) -> int:
        nonlocal seen
        while seen < wanted:
            batches = await consumer.getmany(timeout_ms=1000)
            seen += sum(len(records) for records in batches.values())
        return seen

    try:
        topic = Topics(settings.topic_prefix).outcomes
        consumer.assign([TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)])
        await consumer.seek_to_beginning()
        yield until
    finally:
        await consumer.stop()


async def latency(settings: Settings, per_second: int, seconds: int) -> dict[str, Any]:
    """Returns milliseconds from producing a command to reading its outcome, through all roles, at a steady rate.

    `cpu_us` in the result is the processor time per command of each role and server, in microseconds.
    """
    roles = ("commands", "relay", "timer", "projections")
    async with running(settings, *roles) as supervisor:
        await supervisor.ready()
        with psycopg.connect(settings.database, autocommit=True) as connection:
            processors = ProcessorTime(settings, connection)
            pids = {role: pid for role in roles if (pid := supervisor.pid(role)) is not None}
            return await latency_of(settings, per_second, seconds, lambda: processors.used(**pids))


async def latency_of(
    settings: Settings, per_second: int, seconds: int, used: Callable[[], dict[str, float]] = dict
) -> dict[str, Any]:
    """Measures the same latency for any program that answers on these topics.

    `used` returns the processor time so far, in seconds by name.
    """
    async with Client(settings.kafka, prefix=settings.topic_prefix) as client:
        await at_a_rate(client, per_second, steady("warm", per_second), per_second * _WARM_SECONDS)
        before = used()
        taken = await at_a_rate(client, per_second, steady("measured", per_second), per_second * seconds)
        spent = microseconds_each(before, used(), len(taken))
    return percentiles(taken) | {"commands": len(taken), "cpu_us": spent}


def percentiles(taken: Sequence[float]) -> dict[str, float]:
    """Returns percentiles of milliseconds."""
    ordered = sorted(taken)
    return {"p50_ms": statistics.median(ordered), "p99_ms": ordered[int(len(ordered) * 0.99)], "max_ms": ordered[-1]}


async def at_a_rate(client: Client, per_second: int, commands: Iterator[CommandEnvelope], count: int) -> list[float]:
    """Sends the first `count` commands. Returns each one's milliseconds to its outcome."""
    return await paced(per_second, islice(commands, count), lambda command: _time(client, command))


async def paced(per_second: int, items: Iterable[_T], begin: Callable[[_T], Awaitable[float]]) -> list[float]:
    """Begins something with each item at a steady rate, however long it takes. Returns all results."""
    begun, start = [], time.perf_counter()
    for number, item in enumerate(items):
        await asyncio.sleep(max(0, start + number / per_second - time.perf_counter()))
        begun.append(asyncio.ensure_future(begin(item)))
    return list(await asyncio.gather(*begun))


def steady(name: str, orders_at_once: int = STEADY_ORDERS) -> Iterator[CommandEnvelope]:
    """Yields commands for ever: that many orders, then update requests and answers on them in turns.

    With as many orders as commands a second, an order's commands are a second apart, so that none overtakes another.
    """
    orders = [life(f"{name}-{number}")[0] for number in range(orders_at_once)]
    yield from orders
    request = OrderUpdateRequest(kind="order_update", message="How is it going?")
    while True:
        asked = [(order, str(uuid4())) for order in orders]
        for order, dispute_id in asked:
            ask = OpenDispute(actor=order.data["client_id"], request=request)
            yield CommandEnvelope.of(order.subject, ask, source="/bench", id=dispute_id)
        for order, dispute_id in asked:  # later, because commands that are sent at once may overtake each other
            answer = Accept(actor=order.data["freelancer_id"], dispute_id=dispute_id, message="Well.")
            yield CommandEnvelope.of(order.subject, answer, source="/bench")


async def _time(client: Client, envelope: CommandEnvelope) -> float:
    started = time.perf_counter()
    outcome = await (await client.publish(envelope.subject, envelope.to_json()))
    assert "events" in outcome["data"], outcome
    return (time.perf_counter() - started) * 1000


async def _count(shards: Sequence[psycopg.Connection], wanted: int) -> tuple[int, float]:
    query = "SELECT coalesce(max(outcome_id), 0) FROM outcomes"
    while True:
        stored = sum(number for shard in shards for (number,) in shard.execute(query).fetchall())
        if stored >= wanted:
            return stored, time.perf_counter()
        await asyncio.sleep(0.01)
