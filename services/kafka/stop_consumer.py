"""Makes a consumer's `stop` end the consumer and return, even while Kafka does not answer.

aiokafka cancels its pending fetches and awaits each. A fetch that has just failed, and pauses before its next attempt,
ends with CancelledError. aiokafka's `stop` raised that error as if its caller had been cancelled. A role then ended
without a log line, and its connections stayed open.
"""

import asyncio

from aiokafka.consumer.fetcher import Fetcher


def stop_without_cancelling() -> None:
    """Patches aiokafka's consumers, for the whole process."""
    Fetcher.close = _close  # type: ignore[method-assign]


async def _close(fetcher: Fetcher) -> None:
    """Does what aiokafka's own method does, but does not raise what the tasks raise."""
    fetcher._closed = True
    await _cancel(fetcher._fetch_task)
    for waiter in fetcher._fetch_waiters:
        fetcher._notify(waiter)
    await _cancel(*fetcher._pending_tasks)


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
