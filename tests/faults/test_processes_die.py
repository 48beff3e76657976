"""Whatever role is killed or stopped, at whatever step: what comes out is what had to."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from services import faults
from tests.engine.checkpoints import assert_chain_holds, with_key
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.installation import ROLES, Installation, until

STEPS = [(role, step) for role, steps in faults.POINTS.items() for step in steps]
STOPS = [
    ("commands", "judged"), ("commands", "inserting"), ("commands", "inserted"), ("relay", "begun"), ("relay", "added"),
    ("relay", "delivered"), ("timer", "polled"), ("timer", "asked"), ("projections", "read"), ("projections", "applied"),
    ("checkpoints", "covered"), ("checkpoints", "sent"),
]  # fmt: skip
_LONGER_THAN_THE_SESSION_SECONDS = 8


@asynccontextmanager
async def supervised_each(installation: Installation, *roles: str) -> AsyncIterator[dict[str, Installation]]:
    """Each role runs under a supervisor of its own, so that several can be told at once where to fail."""
    installation.settings = replace(installation.settings, time_scale=Fraction(FAST))
    those = {role: Installation(installation.settings) for role in roles}
    try:
        await asyncio.gather(*(own.run(role) for role, own in those.items()))
        yield those
    finally:
        await asyncio.gather(*(own.stop() for own in those.values()))


def passages(dice: random.Random, steps: Sequence[tuple[str, str]]) -> dict[str, list[tuple[str, int]]]:
    """By role its steps in any order, each with the passage at which the role fails."""
    drawn: dict[str, list[tuple[str, int]]] = {}
    for role, step in dice.sample(steps, len(steps)):
        drawn.setdefault(role, []).append((step, dice.randint(1, 4)))
    return drawn


async def fail_at(own: Installation, role: str, step: str, passage: int, action: str, folder: Path) -> None:
    """Starts the role anew so that it fails once at this step; returns when it has."""
    mark = folder / f"{role}.{step}.{action}"
    await own.stop(role)
    own.supervisor.environment["RESOLUTION_FAULT"] = f"{role}.{step} {passage} {action} {mark}"
    own.supervisor.start(role)
    await until(mark.exists, 120)
    del own.supervisor.environment["RESOLUTION_FAULT"]


async def test_a_role_killed_at_any_of_its_steps_changes_nothing(
    installation: Installation, seed: int, every_step: bool, tmp_path: Path
):
    """All roles at the same time, each at one of its steps after the other."""
    dice = random.Random(seed)
    steps = STEPS if every_step else [(role, dice.choice(steps)) for role, steps in faults.POINTS.items()]
    public = with_key(installation, tmp_path / "key")

    async def kill(own: Installation, role: str, at: Sequence[tuple[str, int]]) -> None:
        for step, passage in at:
            await fail_at(own, role, step, passage, "kill", tmp_path)

    async with supervised_each(installation, *faults.POINTS) as those:
        async with under_load(installation, dice):
            await asyncio.gather(*(kill(those[role], role, at) for role, at in passages(dice, steps).items()))
        await assert_nothing_lost_and_nothing_twice(installation)
        await assert_chain_holds(installation, public)


async def test_roles_killed_at_random_change_nothing(installation: Installation, seed: int):
    dice = random.Random(seed)
    await installation.run(scale=FAST)
    async with under_load(installation, dice, per_second=200):
        for _ in range(6):
            await asyncio.sleep(dice.random())
            pid = installation.supervisor.pid(dice.choice(ROLES))
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
    await assert_nothing_lost_and_nothing_twice(installation)


async def test_a_process_that_wakes_up_after_another_took_its_place_writes_nothing(
    installation: Installation, seed: int, every_step: bool, tmp_path: Path
):
    """Stopped for longer than the consumer group waits, in the middle of its work, also of its transaction."""
    dice = random.Random(seed)
    steps = STOPS if every_step else dice.sample(STOPS, 1)
    public = with_key(installation, tmp_path / "key")

    async def replace_sleeper(own: Installation, role: str, at: Sequence[tuple[str, int]]) -> None:
        second = Installation(own.settings)
        try:
            for step, passage in at:
                await fail_at(own, role, step, passage, "stop", tmp_path)
                sleeper = own.supervisor.pid(role)
                assert sleeper is not None
                await second.run(role)
                await asyncio.sleep(_LONGER_THAN_THE_SESSION_SECONDS)
                os.kill(sleeper, signal.SIGCONT)
                await asyncio.sleep(1)
                await second.stop(role)
        finally:
            await second.stop()

    async with supervised_each(installation, *faults.POINTS) as those:
        async with under_load(installation, dice):
            await asyncio.gather(
                *(replace_sleeper(those[role], role, at) for role, at in passages(dice, steps).items())
            )
        await assert_nothing_lost_and_nothing_twice(installation)
        await assert_chain_holds(installation, public)


async def test_services_started_in_any_order_and_stopped_at_once_lose_nothing(installation: Installation, seed: int):
    dice = random.Random(seed)
    async with under_load(installation, dice):
        first, *others = dice.sample(ROLES, len(ROLES))
        await installation.run(first, scale=FAST)
        for role in others:
            await installation.run(role)
        await installation.stop()
        await asyncio.sleep(1)
    await installation.run()
    await assert_nothing_lost_and_nothing_twice(installation)


def test_faults_are_inert_unless_asked_for(monkeypatch: pytest.MonkeyPatch):
    assert "RESOLUTION_FAULT" not in os.environ
    assert faults.point is faults._nothing
