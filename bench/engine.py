"""What the service does: a backlog, and commands that come one by one."""

import asyncio
import statistics
import time
from uuid import uuid4

import psutil
import psycopg
from resolution_contracts import Accept, CommandEnvelope, OpenDispute, OrderUpdateRequest

from bench.load import life
from services.kafka.topics import Topics
from services.sender import Sender
from services.settings import Settings
from services.supervisor import Supervisor


async def backlog(settings: Settings, commands: int) -> dict[str, float]:
    """One commands process on a topic that is full; until the last outcome is committed, from the first one on.

    The process has started and found its partitions when the clock starts.
    """
    supervisor = Supervisor(settings)
    supervisor.start("commands")
    try:
        with psycopg.connect(settings.database, autocommit=True) as connection:
            first, started = await _count(connection, 1)
            last, ended = await _count(connection, commands)
        pid = supervisor.pid("commands")
        assert pid is not None
        memory = psutil.Process(pid).memory_info().rss
    finally:
        await supervisor.stop()
    return {"per_second": (last - first) / (ended - started), "memory_mb": memory / 1e6}


async def relay_backlog(settings: Settings, commands: int) -> dict[str, float]:
    """The relay on that backlog's outcomes and events, from its start until the last one is on Kafka."""
    supervisor = Supervisor(settings)
    async with Sender(settings.kafka, Topics(settings.topic_prefix)) as sender:
        supervisor.start("relay")
        await supervisor.ready()
        started = time.perf_counter()
        try:
            await sender.seen(commands)
            elapsed = time.perf_counter() - started
        finally:
            await supervisor.stop()
    return {"per_second": commands / elapsed}


async def latency(settings: Settings, per_second: int, seconds: int) -> dict[str, float]:
    """From producing a command to reading its outcome, through all roles, at a steady rate; milliseconds."""
    supervisor = Supervisor(settings)
    supervisor.start("commands", "relay", "timer", "projections")
    await supervisor.ready()
    try:
        async with Sender(settings.kafka, Topics(settings.topic_prefix)) as sender:
            await _at_a_rate(sender, per_second, per_second * 2, "warm")
            taken = sorted(await _at_a_rate(sender, per_second, per_second * seconds, "measured"))
    finally:
        await supervisor.stop()
    p99 = taken[int(len(taken) * 0.99)]
    return {"p50_ms": statistics.median(taken), "p99_ms": p99, "max_ms": taken[-1], "commands": len(taken)}


async def _at_a_rate(sender: Sender, per_second: int, commands: int, name: str) -> list[float]:
    """Orders that ask for an update and get it, again and again; each command's milliseconds to its outcome."""
    tasks, start = [], time.perf_counter()
    backlog = _steady(name)
    for number in range(commands):
        await asyncio.sleep(max(0, start + number / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(_time(sender, next(backlog))))
    return list(await asyncio.gather(*tasks))


def _steady(name: str):  # type: ignore[no-untyped-def]
    orders = [life(f"{name}-{number}")[0] for number in range(20)]
    yield from orders
    request = OrderUpdateRequest(kind="order_update", message="How is it going?")
    while True:
        for order in orders:
            dispute_id = str(uuid4())
            client, freelancer = order.data["client_id"], order.data["freelancer_id"]
            yield CommandEnvelope.of(
                order.subject, OpenDispute(actor=client, request=request), source="/bench", id=dispute_id
            )
            answer = Accept(actor=freelancer, dispute_id=dispute_id, message="Well.")
            yield CommandEnvelope.of(order.subject, answer, source="/bench")


async def _time(sender: Sender, envelope: CommandEnvelope) -> float:
    started = time.perf_counter()
    outcome = await (await sender.publish(envelope.subject, envelope.to_json()))
    assert "events" in outcome["data"], outcome
    return (time.perf_counter() - started) * 1000


async def _count(connection: psycopg.Connection, wanted: int) -> tuple[int, float]:
    while True:
        row = connection.execute("SELECT coalesce(max(outcome_id), 0) FROM outcomes").fetchone()
        assert row is not None
        if row[0] >= wanted:
            return row[0], time.perf_counter()
        await asyncio.sleep(0.01)
