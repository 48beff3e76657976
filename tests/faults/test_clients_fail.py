"""Whatever a call of the Kafka or the PostgreSQL client raises, before or after its effect, the results are right."""

import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from services.runtime.supervisor import Supervisor
from tests.faults.clients import VARIABLE, run_failing_role
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.support.checkpoints import assert_chain_holds, with_key
from tests.support.installation import ROLES, Installation, until


@pytest.mark.timeout(600)
async def test_whatever_a_client_raises_changes_nothing(
    installation: Installation, seed: int, every_step: bool, tmp_path: Path
):
    dice, roles = random.Random(seed), (*ROLES, "checkpoints")
    installation.settings = replace(installation.settings, time_scale=Fraction(FAST))
    public = with_key(installation, tmp_path / "key")
    installation.supervisor = Supervisor(installation.settings, work=run_failing_role)
    installation.supervisor.environment[VARIABLE] = f"{seed} {tmp_path}"
    installation.supervisor.start(*roles)
    async with under_load(installation, dice):
        with suppress(TimeoutError):
            wanted = 40 if every_step else 5
            await until(lambda: all(by_role(tmp_path)[role] >= wanted for role in roles), 90)
        (tmp_path / "over").touch()
        await installation.supervisor.ready()
    said = raised(tmp_path)
    print(len(said), *(Counter(line.split()[place] for line in said) for place in (0, 1)))
    await assert_nothing_lost_and_nothing_twice(installation)
    await assert_chain_holds(installation, public)
    assert by_role(tmp_path).keys() == set(roles)


def raised(folder: Path) -> list[str]:
    """Returns a line for each failure: role, call, before or after its effect, and the error."""
    file = folder / "raised"
    return file.read_text().splitlines() if file.exists() else []


def by_role(folder: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in raised(folder))
