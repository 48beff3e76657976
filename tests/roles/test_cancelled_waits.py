"""A role that has to stop stops, also if what it waits for happens in the same moment."""

import asyncio

import pytest

from services.waiting import happens_within


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("happens_first", [True, False])
async def test_a_wait_that_is_cancelled_ends_whatever_happens_meanwhile(turns: int, happens_first: bool):
    event, went_on = asyncio.Event(), False

    async def waits() -> None:
        nonlocal went_on
        await happens_within(event, 60)
        went_on = True
        await asyncio.sleep(60)

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0.01)
    if happens_first:
        event.set()
    for _ in range(turns):  # of the event loop
        await asyncio.sleep(0)
    waiting.cancel()
    event.set()
    await asyncio.wait([waiting], timeout=5)
    assert waiting.cancelled()
    assert not (went_on and not happens_first)


@pytest.mark.parametrize(("seconds", "happens"), [(0, False), (-1, False), (0.01, False), (0, True), (-1, True)])
async def test_a_wait_ends_after_its_time_at_the_latest(seconds: float, happens: bool):
    event = asyncio.Event()
    if happens:
        event.set()
    assert await happens_within(event, seconds) is happens
