"""Commands of many orders, as long as they are wanted: requests, answers, repeats, garbage, by a seed."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from aiokafka.errors import KafkaError
from resolution_contracts import Accept, Command, Decline, Withdraw

from projections import READ_MODELS
from services.audit.findings import Findings
from services.audit.read_models import verify_read_models
from tests.engine.commands import CLIENT, ask_cancellation, ask_extension, ask_update, offer_refund, register
from tests.installation import Installation, until
from tests.judgement_day import Json, assert_as_the_oracle_says

FAST = 34_560
"""The scale at which 48 hours pass in 5 s."""

_ORDERS = 40


async def some_day(installation: Installation, dice: random.Random) -> AsyncIterator[None]:
    """Publishes a command at each step, some twice, some garbage."""
    for number in range(_ORDERS):
        await installation.publish(f"order-{number}", register())
        yield
    disputes: dict[str, list[str]] = {}
    while True:
        order_id = f"order-{dice.randrange(_ORDERS)}"
        known = disputes.setdefault(order_id, [str(uuid4())])
        about, actor = known[-1], dice.choice([CLIENT, "freelancer-1"])
        command: Command = dice.choice(
            [
                ask_update(), ask_extension(), ask_cancellation() if dice.random() < 0.05 else ask_update(),
                offer_refund(dice.choice([1, 6_000, 6_001])),
                Accept(actor=actor, dispute_id=about), Decline(actor=actor, dispute_id=about),
                Withdraw(actor=actor, dispute_id=about),
            ]
        )  # fmt: skip
        command_id = await installation.publish(order_id, command)
        known.append(command_id)
        if dice.random() < 0.1:
            await installation.publish(order_id, command, id=command_id)
        if dice.random() < 0.05:
            await installation.publish_raw(order_id.encode(), b"garbage")
        yield


@asynccontextmanager
async def under_load(installation: Installation, dice: random.Random, per_second: int = 60) -> AsyncIterator[None]:
    """Publishes all the while. A command that the broker does not take is the sender's trouble, not the service's."""

    async def publish() -> None:
        while True:
            with suppress(KafkaError):
                async for _ in some_day(installation, dice):
                    await asyncio.sleep(1 / per_second)

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing


async def assert_nothing_lost_and_nothing_twice(installation: Installation) -> None:
    """Waits until all is judged and settled, and holds everything against the oracle."""
    await installation.until_published(120)
    await installation.until_quiet(180)
    assert await assert_as_the_oracle_says(installation) > 0
    await assert_read_models_up_to_date(installation)


async def assert_read_models_up_to_date(installation: Installation) -> None:
    """Each page is what a replay of its order's events gives (case 14); no read model counts an event twice."""
    versions = dict(
        installation.query_all("SELECT originator_id, max(originator_version) FROM order_events GROUP BY 1")
    )
    await until(lambda: dict(installation.query_all("SELECT order_id, version FROM order_page.orders")) == versions)
    found = Findings()
    for number in range(len(installation.settings.shards)):
        await until(lambda number=number: _all_are_at_the_end(installation, number))
        verify_read_models(installation.settings.shards[number].database, list(READ_MODELS), found, lambda _: None)
    assert found.differences == []
    assert _counted(installation) == _to_count(await installation.events())


def _all_are_at_the_end(installation: Installation, shard: int) -> bool:
    last = installation.query("SELECT max(notification_id) FROM order_events", shard=shard)[0][0]
    positions = dict(installation.query("SELECT * FROM projection_tracking", shard=shard))
    return all(positions.get(name) == last for name in READ_MODELS)


def _to_count(events: list[Json]) -> Counter[tuple[str, str]]:
    """What the metrics of all parties come to, from the published events alone: orders by role, disputes by who answers."""
    counts: Counter[tuple[str, str]] = Counter()
    answering: dict[str, str] = {}
    for event in events:
        kind, data = event["type"].split(".")[2], event["data"]
        if kind == "OrderRegistered":
            counts["client", "orders"] += 1
            counts["freelancer", "orders"] += 1
        elif kind == "DisputeOpened":
            answering[data["dispute_id"]] = "freelancer" if data["opened_by"] == "client" else "client"
            counts[answering[data["dispute_id"]], "received"] += 1
        elif kind in ("Accepted", "Declined"):
            counts[answering[data["dispute_id"]], "answered"] += 1
        elif kind == "AutoAccepted":
            counts[answering[data["dispute_id"]], "ran_out"] += 1
    return counts


def _counted(installation: Installation) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for role, found in installation.query_all("SELECT role, counts FROM metrics.parties"):
        for name in ("orders", "received", "answered", "ran_out"):
            counts[role, name] += json.loads(bytes(found)).get(name, 0)
    return +counts
