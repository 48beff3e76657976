"""Reads what is in Kafka and in PostgreSQL once the story is over."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import MapperDeserialisationError
from resolution_contracts.values import SettledAs

from projections import order_page
from services.audit.replay import replay
from services.eventstore.application import OrderStore
from services.eventstore.database import connect
from services.judging.record import Record
from services.kafka.read_topics import read_all
from services.orders.events import DisputeOpened
from services.orders.public_events import event_envelope

from .script import Json
from .stage import Stage

_CATCH_UP_SECONDS = 15
_LOOK_EVERY_SECONDS = 0.05
_ALL = 1_000_000


@dataclass(frozen=True)
class Stored:
    """The event store: its events in their public form, what it could not read, and the confidential reasons in it."""

    events: list[Json]
    unreadable: list[str]
    refund_reasons: list[str]


@dataclass(frozen=True)
class Evidence:
    """Everything there is. `pages` and `replays` tell an order's state in the same words, so that they compare."""

    commands: list[Record]
    events: list[Record]
    outcomes: list[Record]
    dead_letters: list[Record]
    stored: Stored
    pages: dict[str, Json | None]
    replays: dict[str, Json | str | None]


async def come_to_rest(stage: Stage) -> None:
    """Returns when everything that was published is judged, answered and shown, and stops the roles."""
    await stage.roles.stop("timer")
    with contextlib.suppress(TimeoutError):  # the checks will say what is missing
        async with asyncio.timeout(_CATCH_UP_SECONDS):
            await stage.watch.all_answered()
            await _pages_caught_up(stage)
    await stage.roles.stop()


async def _pages_caught_up(stage: Stage) -> None:
    """Looks again and again, for nobody tells when a read model has moved on."""
    versions = stage.watch.versions()
    while True:
        pages = _pages(stage, list(versions))
        if versions == {order: page and page["version"] for order, page in pages.items()}:
            return
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


async def gather(stage: Stage, orders: Sequence[str]) -> Evidence:
    """Reads everything anew, from the beginning. The roles have to be at rest."""
    topics = stage.topics
    names = (topics.commands, topics.events, topics.outcomes, topics.dead_letters)
    records = await read_all(stage.settings.cluster, *names)
    with OrderStore(stage.settings.database, stage.settings.master_keys) as store:
        return Evidence(
            commands=records[topics.commands],
            events=records[topics.events],
            outcomes=records[topics.outcomes],
            dead_letters=records[topics.dead_letters],
            stored=_stored(store),
            pages=_pages(stage, orders),
            replays={order: _replayed(store, order) for order in orders},
        )


def _stored(store: OrderStore) -> Stored:
    stored = Stored([], [], [])
    for notification in store.recorder.select_notifications(None, _ALL):
        try:
            [event] = store.read([notification])
        except MapperDeserialisationError as error:
            stored.unreadable.append(str(error))
            continue
        stored.events.append(event_envelope(event))
        if isinstance(event, DisputeOpened) and isinstance(event.refund_reason, str):
            stored.refund_reasons.append(event.refund_reason)
    return stored


def _pages(stage: Stage, orders: Sequence[str]) -> dict[str, Json | None]:
    with connect(stage.settings.database) as connection:
        found = {
            order: order_page.look(connection, stage.settings.master_keys, order, None, stage.clock.now())
            for order in orders
        }
    return {order: page and _state_on(page) for order, page in found.items()}


def _state_on(page: dict[str, Any]) -> Json:
    refund = page["refund"]
    return {
        "version": page["version"],
        "status": page["status"],
        "expected_delivery_at": page["expected_delivery_at"],
        "disputes": {dispute["dispute_id"]: dispute["settled_as"] for dispute in page["disputes"]},
        "refund": refund and (refund["refund_id"], refund["amount"], refund["state"] == "processed"),
    }


def _replayed(store: OrderStore, order: str) -> Json | str | None:
    try:
        steps = list(replay(store, order))
    except Exception as error:  # a history that was tampered with may fail anyhow
        return f"the history cannot be replayed: {error!r}"
    if not steps:
        return None
    state = steps[-1]["state"]
    refund, still_open = state["refund"], state["open_dispute"]
    opened: dict[str, SettledAs | None] = {still_open["dispute_id"]: None} if still_open else {}
    return {
        "version": steps[-1]["sequence"],
        "status": state["status"],
        "expected_delivery_at": state["expected_delivery_at"],
        "disputes": opened | state["settled_disputes"],
        "refund": refund and (refund["refund_id"], refund["amount"], refund["processed"]),
    }
