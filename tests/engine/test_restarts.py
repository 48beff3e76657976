"""Restarting any role, or all, at any moment changes nothing in what comes out."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from resolution_contracts import Accept, Command, Decline, Withdraw

from tests.engine.commands import CLIENT, ask_cancellation, ask_extension, ask_update, offer_refund, register
from tests.installation import ROLES, Installation, until
from tests.judgement_day import assert_as_the_oracle_says

_ORDERS = 40


async def some_day(installation: Installation, dice: random.Random) -> AsyncIterator[None]:
    """Publishes commands of many orders, some twice, some garbage, for as long as it is asked for more."""
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
                ask_update(), ask_extension(), ask_cancellation() if dice.random() < 0.1 else ask_update(),
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


@pytest.mark.parametrize("seed", [1, 2])
async def test_killing_roles_at_random_under_load_changes_nothing(installation: Installation, seed: int):
    dice = random.Random(seed)
    await installation.run(scale=34_560)
    day = some_day(installation, dice)
    for _ in range(6):
        for _ in range(dice.randrange(20, 120)):
            await anext(day)
        pid = installation.supervisor.pid(dice.choice(ROLES))
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    await installation.until_published(120)
    await installation.until_quiet()
    assert await assert_as_the_oracle_says(installation) > _ORDERS


async def test_two_copies_of_every_role_write_everything_once(installation: Installation):
    await installation.run("commands", "timer", "projections", "relay", scale=34_560)
    second = Installation(installation.settings)
    await second.run("commands", "timer", "projections")
    try:
        dice = random.Random(7)
        day = some_day(installation, dice)
        for _ in range(400):
            await anext(day)
        await second.stop("commands")
        for _ in range(100):
            await anext(day)
        await installation.until_published(60)
        await installation.until_quiet()
        await assert_as_the_oracle_says(installation)
        await _assert_pages_up_to_date(installation)
    finally:
        await second.stop()


async def test_a_second_relay_fences_the_first(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    second = Installation(installation.settings)
    await second.run("relay")
    try:
        for _ in range(20):
            await installation.publish("order-1", ask_update())
            await asyncio.sleep(0.05)
        await installation.until_published()
        await assert_as_the_oracle_says(installation)
    finally:
        await second.stop()


async def test_services_started_in_any_order_and_stopped_at_once_lose_nothing(installation: Installation):
    dice = random.Random(3)
    day = some_day(installation, dice)
    for _ in range(100):
        await anext(day)
    for role in ("relay", "timer", "commands", "projections"):
        await installation.run(role)
    await installation.until_published()
    await installation.stop()
    for _ in range(50):
        await anext(day)
    await installation.run(*ROLES)
    await installation.until_published()
    await assert_as_the_oracle_says(installation)
    await _assert_pages_up_to_date(installation)


async def _assert_pages_up_to_date(installation: Installation) -> None:
    """Each page is what a replay of its order's events gives (case 14)."""
    versions = dict(installation.query("SELECT originator_id, max(originator_version) FROM order_events GROUP BY 1"))
    await until(lambda: dict(installation.query("SELECT order_id, version FROM order_pages")) == versions)
