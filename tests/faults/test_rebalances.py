"""Two copies of each role, and members that come and go: everything is written once."""

import asyncio
import random

import pytest

from tests.engine.commands import ask_update, register
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.installation import Installation
from tests.judgement_day import assert_as_the_oracle_says


@pytest.mark.long
async def test_two_copies_of_every_role_write_everything_once(installation: Installation, seed: int):
    await installation.run(scale=FAST)
    second = Installation(installation.settings)
    try:
        async with under_load(installation, random.Random(seed), per_second=200):
            await second.run("commands", "timer", "projections")
            await asyncio.sleep(3)
            await second.stop("commands")
            await asyncio.sleep(1)
        await assert_nothing_lost_and_nothing_twice(installation)
    finally:
        await second.stop()


async def test_members_that_join_and_leave_under_load_change_nothing(installation: Installation, seed: int):
    dice = random.Random(seed)
    await installation.run(scale=FAST)
    others = [Installation(installation.settings) for _ in range(2)]
    try:
        async with under_load(installation, dice, per_second=150):
            for _ in range(4):
                other = dice.choice(others)
                role = dice.choice(["commands", "timer"])
                await (other.stop(role) if other.supervisor.pid(role) else other.run(role))
                await asyncio.sleep(dice.random())
        await assert_nothing_lost_and_nothing_twice(installation)
    finally:
        await asyncio.gather(*(other.stop() for other in others))


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
