"""Whichever role is killed or stopped, at whatever step, the results are right."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from services import fault_points
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.support.checkpoints import assert_chain_holds, with_key
from tests.support.installation import ROLES, Installation, until

STEPS = [(role, step) for role, steps in fault_points.POINTS.items() for step in steps]
STOPS = [
    ("commands", "judged"), ("commands", "inserting"), ("commands", "inserted"), ("relay", "begun"), ("relay", "added"),
    ("relay", "delivered"), ("timer", "polled"), ("timer", "asked"), ("projections", "read"), ("projections", "applied"),
    ("checkpoints", "covered"), ("checkpoints", "sent"),
]  # fmt: skip
_LONGER_THAN_THE_SESSION_SECONDS = 8


Fail = Callable[[Installation, str, str, int], Awaitable[None]]
"""Makes a role that the installation supervises fail when it reaches a step for the n-th time."""


async def fail_at_each(
    installation: Installation, dice: random.Random, steps: Sequence[tuple[str, str]], fail: Fail, folder: Path
) -> None:
    """Makes all roles fail at the same time under load, each at one step after another. The results must be right.

    Each role has its own supervisor, so that several roles can get their steps at once.
    """
    public = with_key(installation, folder / "key")
    installation.settings = replace(installation.settings, time_scale=Fraction(FAST))
    those = {role: Installation(installation.settings) for role in fault_points.POINTS}
    drawn = [(role, step, dice.randint(1, 4)) for role, step in dice.sample(steps, len(steps))]

    async def one_after_the_other(role: str, own: Installation) -> None:
        for of_role, step, passage in drawn:
            if of_role == role:
                await fail(own, role, step, passage)

    try:
        await asyncio.gather(*(own.run(role) for role, own in those.items()))
        async with under_load(installation, dice):
            await asyncio.gather(*(one_after_the_other(role, own) for role, own in those.items()))
        await assert_nothing_lost_and_nothing_twice(installation)
        await assert_chain_holds(installation, public)
    finally:
        await asyncio.gather(*(own.stop() for own in those.values()))


async def fail_at(own: Installation, role: str, step: str, passage: int, action: str, folder: Path) -> None:
    """Restarts the role so that it fails once at this step. Returns when it has failed."""
    mark = folder / f"{role}.{step}.{action}"
    await own.stop(role)
    own.supervisor.environment["RESOLUTION_FAULT"] = f"{role}.{step} {passage} {action} {mark}"
    own.supervisor.start(role)
    await until(mark.exists, 120)
    del own.supervisor.environment["RESOLUTION_FAULT"]


async def test_a_role_killed_at_any_of_its_steps_changes_nothing(
    installation: Installation, seed: int, every_step: bool, tmp_path: Path
):
    dice = random.Random(seed)
    steps = STEPS if every_step else [(role, dice.choice(steps)) for role, steps in fault_points.POINTS.items()]

    async def kill(own: Installation, role: str, step: str, passage: int) -> None:
        await fail_at(own, role, step, passage, "kill", tmp_path)

    await fail_at_each(installation, dice, steps, kill, tmp_path)


async def test_roles_killed_at_random_change_nothing(installation: Installation, seed: int):
    dice = random.Random(seed)
    await installation.run(scale=FAST)
    async with under_load(installation, dice, per_second=200):
        for _ in range(6):
            await asyncio.sleep(dice.random())
            pid = installation.supervisor.pid(dice.choice(ROLES))
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):  # it may just have been ended
                    os.kill(pid, signal.SIGKILL)
    await assert_nothing_lost_and_nothing_twice(installation)


async def test_a_process_that_wakes_up_after_another_took_its_place_writes_nothing(
    installation: Installation, seed: int, every_step: bool, tmp_path: Path
):
    """A role sleeps longer than its consumer group waits, in the middle of its work, also during a transaction."""
    dice = random.Random(seed)
    steps = STOPS if every_step else dice.sample(STOPS, 1)

    async def replace_sleeper(own: Installation, role: str, step: str, passage: int) -> None:
        await fail_at(own, role, step, passage, "stop", tmp_path)
        sleeper = own.supervisor.pid(role)
        assert sleeper is not None
        second = Installation(own.settings)
        try:
            await second.run(role)
            await asyncio.sleep(_LONGER_THAN_THE_SESSION_SECONDS)
            os.kill(sleeper, signal.SIGCONT)
            await asyncio.sleep(1)
        finally:
            await second.stop()

    await fail_at_each(installation, dice, steps, replace_sleeper, tmp_path)


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
    assert fault_points._fault is None
