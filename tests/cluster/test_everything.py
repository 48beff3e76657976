"""Brokers and databases of one cluster fail in an order that dice choose, one after the other, under load."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.embedded import Servers

from .brokers import Brokers
from .postgres import Pair
from .test_failover import fail_over
from .trial import Trial, trial

pytestmark = pytest.mark.long

PairOf = Callable[[bool], Pair]


async def kill_a_broker(it: Trial, brokers: Brokers, _: Pair) -> None:
    it.dice.choice(brokers.all).kill()
    await asyncio.sleep(it.dice.uniform(0, 15))


async def hang_a_broker(it: Trial, brokers: Brokers, _: Pair) -> None:
    it.dice.choice(brokers.all).hang()
    await asyncio.sleep(it.dice.uniform(1, 30))


async def kill_two_brokers(it: Trial, brokers: Brokers, _: Pair) -> None:
    for broker in it.dice.sample(brokers.all, 2):
        broker.kill()
        await asyncio.sleep(it.dice.uniform(0, 3))


async def cut_links(it: Trial, brokers: Brokers, pair: Pair) -> None:
    links = [pair.primary.link, pair.primary.replication, *(broker.link for broker in brokers.all)]
    for _ in range(20):
        it.dice.choice(links).cut()
        await asyncio.sleep(it.dice.uniform(0, 0.5))


async def fail_over_from_a_dead_primary(it: Trial, _: Brokers, pair: Pair) -> None:
    pair.primary.stop()
    await fail_over(it, pair)


async def fail_over_from_a_vanished_primary(it: Trial, _: Brokers, pair: Pair) -> None:
    pair.primary.link.vanish()
    pair.primary.replication.vanish()
    await asyncio.sleep(it.dice.uniform(0, 3))
    await fail_over(it, pair)


FAULTS: list[Callable[[Trial, Brokers, Pair], Awaitable[None]]] = [
    kill_a_broker,
    hang_a_broker,
    kill_two_brokers,
    cut_links,
    fail_over_from_a_dead_primary,
    fail_over_from_a_vanished_primary,
]


@pytest.mark.usefixtures("drops_packets")
@pytest.mark.parametrize("synchronous", [True, False])
async def test_what_fails_one_after_the_other_changes_nothing(
    brokers: Brokers, pair_of: PairOf, seed: int, synchronous: bool
):
    pair = await asyncio.to_thread(pair_of, synchronous)
    async with trial(Servers(pair.url, brokers.servers), seed) as it:
        for fail in it.dice.sample(FAULTS, len(FAULTS)):
            await asyncio.sleep(it.dice.random())
            await fail(it, brokers, pair)
            await brokers.mend()
            await it.outcomes.flow()
