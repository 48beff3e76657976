"""Reads what is in Kafka and in PostgreSQL once the story is over, and runs the service's own checks."""

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass

from eventsourcing.persistence import MapperDeserialisationError

from projections import READ_MODELS
from services.eventstore.application import OrderStore
from services.eventstore.database import connect
from services.eventstore.installation_state import overview
from services.judging.record import Record
from services.kafka.read_topics import extents, read_all
from services.kafka.relay_position import published
from services.orders.events import DisputeOpened

from .script import Json
from .stage import Stage

_CATCH_UP_SECONDS = 15
_LOOK_EVERY_SECONDS = 0.2
_ALL = 1_000_000


@dataclass(frozen=True)
class Evidence:
    """What the story left in Kafka and in PostgreSQL."""

    told: list[Json]
    """What the narrator printed about each step and about each dispute that ran out, in that order."""
    events: list[Record]
    """All records of the events topic."""
    outcomes: list[Record]
    """All records of the outcomes topic."""
    refund_reasons: list[str]
    """The confidential reasons in the event store."""
    verification: Json
    """What `resolution verify --json` prints."""
    ledger: Json
    """What `resolution ledger --json` prints."""


async def come_to_rest(stage: Stage) -> None:
    """Waits until every command is judged, published and in the read models. Then stops the roles."""
    await stage.roles.stop("timer")
    with contextlib.suppress(TimeoutError):  # the checks will say what is missing
        async with asyncio.timeout(_CATCH_UP_SECONDS):
            while not await _is_at_rest(stage):  # noqa: ASYNC110  # other processes do the work
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
    await stage.roles.stop()


async def _is_at_rest(stage: Stage) -> bool:
    _, ends = await extents(stage.settings.cluster, [stage.topics.commands], stage.partitions)
    with connect(stage.settings.database) as connection:
        stored = overview(connection, stage.clock.now())
    relayed = await published(stage.settings.cluster, stage.topics)
    positions = stored.positions.get("commands", {})
    return (
        all(positions.get(partition, 0) >= end for partition, end in ends[stage.topics.commands].items())
        and relayed.outcome_id >= stored.last_outcome
        and all(stored.read_models.get(name) == stored.last_event for name in READ_MODELS)
    )


async def gather(stage: Stage, told: list[Json]) -> Evidence:
    """Reads everything from the beginning. Stop the roles before."""
    topics = stage.topics
    records = await read_all(stage.settings.cluster, topics.events, topics.outcomes)
    verification, ledger = await asyncio.gather(_resolution(stage, "verify"), _resolution(stage, "ledger"))
    return Evidence(
        told, records[topics.events], records[topics.outcomes], _refund_reasons(stage), verification, ledger
    )


async def _resolution(stage: Stage, command: str) -> Json:
    """Runs a command of the service's command line, and returns the JSON that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", command, "--json"),
        env=stage.roles.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if not output:
        return {"different": 1, "differences": [f"the check failed: {errors.decode(errors='replace')[-500:]}"]}
    return dict(json.loads(output))


def _refund_reasons(stage: Stage) -> list[str]:
    reasons: list[str] = []
    with OrderStore(stage.settings.database, stage.settings.master_keys) as store:
        for notification in store.recorder.select_notifications(None, _ALL):
            with contextlib.suppress(MapperDeserialisationError):  # the verification will say so
                [event] = store.read([notification])
                if isinstance(event, DisputeOpened) and isinstance(event.refund_reason, str):
                    reasons.append(event.refund_reason)
    return reasons
