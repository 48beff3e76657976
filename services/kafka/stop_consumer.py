"""A consumer's `stop` ends it and returns, also while Kafka does not answer.

aiokafka cancels its pending fetches and awaits each. One that has just failed, and pauses before the next try, ends
with CancelledError. That came out of `stop` as if its caller were cancelled: a role then ended without a word, and its
connections stayed open.
"""

import asyncio

from aiokafka.consumer.fetcher import Fetcher


def stop_without_cancelling() -> None:
    """Changes aiokafka's consumers, for all of this process."""
    Fetcher.close = _close  # type: ignore[method-assign]


async def _close(fetcher: Fetcher) -> None:
    """What aiokafka does, but for how it awaits tasks."""
    fetcher._closed = True
    await _ended(fetcher._fetch_task)
    for waiter in fetcher._fetch_waiters:
        fetcher._notify(waiter)
    await _ended(*fetcher._pending_tasks)


async def _ended(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
