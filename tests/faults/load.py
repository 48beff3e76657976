"""Publishes commands of many orders until it is stopped: requests, answers, repeats and garbage, from a seed.

The orders have all kinds of terms (D20).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from aiokafka.errors import KafkaError
from resolution_contracts import Accept, Command, Decline, Withdraw

from tests.support.commands import (
    CLIENT,
    ask_cancellation,
    ask_extension,
    ask_update,
    cancel_order,
    offer_refund,
    offer_share,
    register_under_some_terms,
)
from tests.support.installation import Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says, assert_read_models_count_each_event_once

FAST = 34_560
"""The scale at which 48 hours pass in 5 s."""

_ORDERS = [f"order-{number}" for number in range(40)]


async def some_day(
    installation: Installation, dice: random.Random, orders: Sequence[str] = _ORDERS
) -> AsyncIterator[None]:
    """Publishes a command at each step, some twice, some garbage."""
    for order_id in orders:
        await installation.publish(order_id, register_under_some_terms(dice))
        yield
    disputes: dict[str, list[str]] = {}
    while True:
        order_id = dice.choice(orders)
        known = disputes.setdefault(order_id, [str(uuid4())])
        about, actor = known[-1], dice.choice([CLIENT, "freelancer-1"])
        command: Command = dice.choice(
            [
                ask_update(), ask_extension(dice.choice([1, 45, 60, 61, 90])), _seldom_an_end(dice),
                dice.choice([offer_refund(dice.choice([1, 6_000, 6_001])), offer_share(dice.choice([1, 60, 61, 100]))]),
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


def _seldom_an_end(dice: random.Random) -> Command:
    """A twentieth of these would end the order."""
    return dice.choice([ask_cancellation(), cancel_order()]) if dice.random() < 0.05 else ask_update()


@asynccontextmanager
async def under_load(installation: Installation, dice: random.Random, per_second: int = 60) -> AsyncIterator[None]:
    """Publishes until it is stopped. Ignores commands that the broker refuses, because the service never sees them."""

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
    """Waits until everything is judged and settled, and compares it with the oracle."""
    await installation.until_published(120)
    await installation.until_quiet(180)
    assert await assert_as_the_oracle_says(installation) > 0
    await assert_read_models_up_to_date(installation)


async def assert_read_models_up_to_date(installation: Installation) -> None:
    """Checks that each page matches a replay of its order's events, and no read model counts an event twice (case 14)."""
    versions = dict(
        installation.query_all("SELECT originator_id, max(originator_version) FROM order_events GROUP BY 1")
    )
    await until(lambda: dict(installation.query_all("SELECT order_id, version FROM order_page.orders")) == versions)
    await installation.until_projected()
    await assert_read_models_count_each_event_once(installation)
