"""`resolution demo`: plays some days of a marketplace at a scaled clock through real Kafka and PostgreSQL, and checks
the result."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console  # noqa: TID251  # a type

from services.settings import Settings

from .checks import verify
from .evidence import come_to_rest, gather
from .narrate import ConsoleNarrator, Narrator
from .play import Director
from .stage import ROLES, DemoError, Stage, TooSlow, open_stage, ready
from .story import story

__all__ = ["run"]

SECONDS_FOR_TWO_DAYS = (10, 25, 60)
"""How fast the clock runs. A machine that is too slow for it plays the story again with the next one."""


async def run(settings: Settings, console: Console, *, as_json: bool, keep: bool = False) -> bool:
    """Plays the story on the servers of `settings` and prints it. Returns whether all checks passed.

    Uses its own database and topics, and removes them at the end. With `keep` it removes nothing: if all checks pass,
    all roles run and serve the pages until Ctrl-C. Raises psycopg.Error, KafkaError and TopicError.
    """
    narrator = Narrator(console) if as_json else ConsoleNarrator(console)
    started = time.monotonic()
    passed = False
    try:
        with _stopped_by_sigterm(), narrator.live():
            for seconds in SECONDS_FOR_TWO_DAYS:
                with _again_if_too_slow(narrator, seconds):
                    async with open_stage(settings, narrator.note, seconds_for_two_days=seconds, keep=keep) as stage:
                        await _play(stage, narrator)
                        passed = True
                        if keep:
                            await _stay(stage, narrator, seconds)
                    break
    except DemoError as error:
        narrator.tell("trouble", text=str(error))
    narrator.tell("result", passed=passed, seconds=round(time.monotonic() - started, 1))
    return passed


@contextmanager
def _again_if_too_slow(narrator: Narrator, seconds: int) -> Iterator[None]:
    """Says so if this machine is too slow for this speed of the clock. Raises TooSlow at the slowest one."""
    try:
        yield
    except TooSlow:
        if seconds == SECONDS_FOR_TWO_DAYS[-1]:
            raise
        narrator.note(f"This machine is too slow to let two days pass in {seconds} seconds. Once more, more slowly.")


async def _play(stage: Stage, narrator: Narrator) -> None:
    """Plays the story and checks the result. Raises DemoError if a check fails."""
    start = stage.clock.now()
    tales = story(start)
    director = Director(stage, narrator, tales, start)
    await director.play()
    await come_to_rest(stage)
    narrator.tell("chapter", title="Verification: Kafka and PostgreSQL against the story")
    checks = verify(await gather(stage, director.told), tales)
    for check in checks:
        narrator.tell("check", **check.as_dict())
    failed = sum(not check.passed for check in checks)
    if failed:
        raise DemoError(f"{failed} of {len(checks)} checks failed.")


async def _stay(stage: Stage, narrator: Narrator, seconds: int) -> None:
    """Starts all roles again and serves the pages."""
    stage.roles.start(*ROLES, "http")
    await ready(stage.roles)
    narrator.note(f"The pages: {stage.roles.said['http']}. Log in as mia (a client) or ben (a freelancer).")
    narrator.note(f"Here two days pass in {seconds} seconds. Press Ctrl-C to end the demo.")
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM cancel the demo as Ctrl-C does, so that everything is removed. Then raises DemoError."""
    task, stopped = asyncio.current_task(), False
    assert task is not None
    loop = asyncio.get_running_loop()

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    except asyncio.CancelledError:
        if not stopped:
            raise
        raise DemoError("Stopped.") from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
