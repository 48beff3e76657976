"""A service under load while parts of its cluster fail, and the judgement of what came of it."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.embedded import Servers
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice
from tests.support.installation import Installation

from .load import Outcomes, under_steady_load


@dataclass
class Trial:
    """One service, at whose servers a test makes things fail."""

    installation: Installation
    outcomes: Outcomes
    dice: random.Random
    silence: float = 0.0
    """The longest time in seconds without an outcome, while commands kept coming."""


@asynccontextmanager
async def trial(servers: Servers, seed: int, metrics_ports: Mapping[str, int] | None = None) -> AsyncIterator[Trial]:
    """The body makes things fail and mends them. Afterwards outcomes come again, and everything is as the oracle says.

    `metrics_ports`: of the roles that run, instead of the usual roles without any.
    """
    async with Installation.fresh(servers) as installation:
        installation.metrics_ports |= metrics_ports or {}
        await installation.run(*installation.metrics_ports, scale=FAST)
        dice = random.Random(seed)
        async with under_steady_load(installation, dice), Outcomes.watched(installation) as outcomes:
            under_trial = Trial(installation, outcomes, dice)
            await outcomes.flow()
            outcomes.begin()
            try:
                yield under_trial
                await outcomes.flow()
            finally:
                under_trial.silence = outcomes.longest_silence()
        await assert_nothing_lost_and_nothing_twice(installation)
