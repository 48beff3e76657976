"""Brokers of a cluster of three die, hang, restart or are cut off, but nothing is lost or doubled, and work continues."""

import asyncio
from collections.abc import Callable

import pytest

from services.embedded import Servers

from .brokers import Brokers
from .trial import trial

pytestmark = pytest.mark.long

KILLED_BROKER = 15.0
HUNG_BROKER = 20.0
"""Seconds for which no outcome may come."""

Bounded = Callable[[float, float], None]


@pytest.mark.short
async def test_a_killed_broker(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    async with trial(Servers(database, brokers.servers), seed) as it:
        broker = it.dice.choice(brokers.all)
        broker.kill()
        await asyncio.sleep(25)
        await asyncio.to_thread(broker.start)
    bounded(it.silence, KILLED_BROKER)


async def test_a_hung_broker(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    async with trial(Servers(database, brokers.servers), seed) as it:
        broker = it.dice.choice(brokers.all)
        broker.hang()
        await asyncio.sleep(45)
        broker.resume()
    bounded(it.silence, HUNG_BROKER)


async def test_two_brokers_killed_at_once(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    """One of three can neither elect a leader nor have two copies in sync: all waits until a second one is back."""
    down = 10.0
    async with trial(Servers(database, brokers.servers), seed) as it:
        two = it.dice.sample(brokers.all, 2)
        for broker in two:
            broker.kill()
        await asyncio.sleep(down)
        await asyncio.to_thread(brokers.start, *two)
        await brokers.until_in_sync()
    bounded(it.silence, down + 2 * KILLED_BROKER)


async def test_a_rolling_restart(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    async with trial(Servers(database, brokers.servers), seed) as it:
        for broker in it.dice.sample(brokers.all, 3):
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(broker.start)
            await brokers.until_in_sync()
    bounded(it.silence, KILLED_BROKER)


async def test_links_to_brokers_that_are_cut(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    """In the middle of fetches, of batches, of transactions."""
    async with trial(Servers(database, brokers.servers), seed) as it:
        for _ in range(20):
            await asyncio.sleep(it.dice.random())
            it.dice.choice(brokers.all).link.cut()
        for _ in range(5):
            await asyncio.sleep(it.dice.random())
            for broker in brokers.all:
                broker.link.cut()
    bounded(it.silence, KILLED_BROKER)


@pytest.mark.usefixtures("drops_packets")
async def test_a_link_that_drops_the_packets_of_clients(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    """The brokers see one another, so the one that no client reaches stays the leader of what it leads."""
    cut_off = 20.0
    async with trial(Servers(database, brokers.servers), seed) as it:
        broker = it.dice.choice(brokers.all)
        broker.link.vanish()
        await asyncio.sleep(cut_off)
        broker.link.appear()
    bounded(it.silence, cut_off + HUNG_BROKER)


@pytest.mark.usefixtures("drops_packets")
async def test_a_link_that_drops_the_packets_of_brokers(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    """No other broker gets copies of what one leads, so it takes no more until they do."""
    cut_off = 20.0
    async with trial(Servers(database, brokers.servers), seed) as it:
        broker = it.dice.choice(brokers.all)
        broker.peer_link.vanish()
        broker.controller_link.vanish()
        await asyncio.sleep(cut_off)
        broker.heal()
    bounded(it.silence, cut_off + HUNG_BROKER)


@pytest.mark.usefixtures("drops_packets")
async def test_a_vanished_broker(brokers: Brokers, database: str, seed: int, bounded: Bounded):
    """Nothing reaches it, and nothing comes from it, as when its host is dead."""
    async with trial(Servers(database, brokers.servers), seed) as it:
        broker = it.dice.choice(brokers.all)
        for link in broker.links:
            link.vanish()
        broker.hang()
        await asyncio.sleep(25)
        broker.heal()
    bounded(it.silence, HUNG_BROKER)
