"""`resolution demo`: a marketplace's days at a scaled clock, through real Kafka and PostgreSQL, told and verified."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console  # noqa: TID251  # a type

from services.settings import Settings

from .checks import verify
from .evidence import come_to_rest, gather
from .narrate import ConsoleTeller, JsonTeller, Teller
from .play import Director
from .stage import ROLES, DemoError, Stage, open_stage, ready
from .story import story

__all__ = ["run"]


async def run(settings: Settings, console: Console, *, as_json: bool, keep: bool = False) -> bool:
    """Plays the story on the servers of `settings` and tells it; whether the verification passed.

    Uses a database and topics of its own and removes them at the end. With `keep` it stays after a good end, with all
    roles running and the pages served, until Ctrl-C, and removes nothing. Raises what the servers raise:
    psycopg.Error, KafkaError, TopicError.
    """
    teller: Teller = JsonTeller(console) if as_json else ConsoleTeller(console)
    started = time.monotonic()
    passed = False
    try:
        with _stopped_by_sigterm(), teller.live():
            async with open_stage(settings, teller.note, keep=keep) as stage:
                await _play(stage, teller)
                passed = True
                if keep:
                    await _stay(stage, teller)
    except DemoError as error:
        teller.trouble(str(error))
    teller.ends(passed=passed, seconds=time.monotonic() - started)
    return passed


async def _play(stage: Stage, teller: Teller) -> None:
    """Raises DemoError where it does not come out as told."""
    start = stage.clock.now()
    tales = story(start)
    await Director(stage, teller, tales, start).play()
    await come_to_rest(stage)
    checks = verify(await gather(stage, [tale.order for tale in tales]), tales)
    teller.checked(checks)
    failed = sum(not check.passed for check in checks)
    if failed:
        raise DemoError(f"{failed} of {len(checks)} checks failed.")


async def _stay(stage: Stage, teller: Teller) -> None:
    """Runs all roles, which the verification had stopped, and serves the pages."""
    stage.roles.start(*ROLES, "http")
    await ready(stage.roles)
    teller.note(f"The pages: {stage.roles.said['http']}. Log in as mia (a client) or ben (a freelancer).")
    teller.note("Here 48 hours pass in 10 seconds. Ctrl-C ends it.")
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM cancels, like Ctrl-C does, so that everything is removed; it ends as a DemoError."""
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
