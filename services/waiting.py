"""Waits for an event, with a limit of time, in a way that can always be cancelled.

`asyncio.wait_for` loses a cancellation that comes in the moment in which what it waits for happens (Python 3.11,
https://github.com/python/cpython/issues/86296). A role that loses one does not stop.
"""

import asyncio


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits until the event is set, at most this long. Returns whether it is."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
