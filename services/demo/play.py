"""Plays the story: every step at its moment on the running service, each outcome held against what is expected."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from resolution_contracts import Decline

from .narrate import Elapsed, StoryTime, Teller, Told
from .script import Happens, Json, Moment, RunsOut, Step, Tale
from .stage import DemoError, Stage, ready

T = TypeVar("T")

_PACE = timedelta(minutes=30)
"""Business time between two steps, at least: a tenth of a second, so that an eye can follow."""

_SURELY_LATE = timedelta(hours=2)
"""Past a deadline, by this machine's clock; commands are judged by the broker's."""

_WORTH_A_WORD_SECONDS = 0.3
_PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class _Sent:
    """A step that is on Kafka since `at`; the future is its outcome."""

    tale: Tale
    step: Step
    at: datetime
    outcome: asyncio.Future[Json]


class Director:
    """Leads through one story."""

    def __init__(self, stage: Stage, teller: Teller, tales: Sequence[Tale], start: datetime) -> None:
        self._stage = stage
        self._clock = stage.clock
        self._watch = stage.watch
        self._teller = teller
        self._tales = tales
        self._start = start
        self._next_step = start
        self._told_about: set[str] = set()
        self._unread: list[_Sent] = []

    async def play(self) -> None:
        """From the first step to the last. Raises DemoError where nothing comes of one, and aiokafka's KafkaError."""
        self._teller.opens(StoryTime(self._clock, self._start))
        for moment in Moment:
            self._teller.chapter(moment.value)
            await self._begin(moment)
            for tale in self._tales:
                for steps in tale.at(moment):
                    await self._play(tale, steps)
                if moment is Moment.RECOVERY:
                    await self._tell_unread(tale)

    async def _begin(self, moment: Moment) -> None:
        """What has to be before a moment's first step."""
        match moment:
            case Moment.DAY_2:
                await self._reach(self._start + timedelta(hours=24), "The night passes")
            case Moment.RUN_OUT:
                first = min(await self._deadlines(moment))
                await self._reach(first, "48 hours have to pass since the first request of day 1")
            case Moment.OUTAGE:
                await self._stop_reading()
            case Moment.OVERDUE:
                last = max(await self._deadlines(moment))
                await self._reach(last + _SURELY_LATE, "48 hours have to pass since the requests of day 2")
            case Moment.RECOVERY:
                await self._read_on()

    async def _stop_reading(self) -> None:
        process = self._stage.roles.pid("commands")
        await self._stage.roles.stop("commands")
        self._teller.note(f"Process {process} has ended. What is published from now on waits in Kafka.")
        if self._clock.now() >= min(await self._deadlines(Moment.OUTAGE)):
            raise DemoError(
                "This machine was so slow that the story's timetable does not hold: a deadline passed before the "
                "answer that should be in time. Try again when it is less busy."
            )

    async def _read_on(self) -> None:
        self._stage.roles.start("commands")
        await ready(self._stage.roles)
        self._teller.note("A command counts from when Kafka took it, not from when it is read (D1).")

    async def _play(self, tale: Tale, steps: Sequence[Step | RunsOut]) -> None:
        """Steps that happen at once: all are published before the first one's outcome is told."""
        if tale.order not in self._told_about:
            self._told_about.add(tale.order)
            self._teller.tale(tale)
        await self._reach(self._next_step)
        self._next_step = self._clock.now() + _PACE
        sent = [await self._send(tale, step) for step in steps if isinstance(step, Step)]
        for one in sent:
            if one.step.when in (Moment.OUTAGE, Moment.OVERDUE):
                self._teller.published(tale, one.step, one.at)
                self._unread.append(one)
            else:
                await self._tell(one)
        for step in steps:
            if isinstance(step, RunsOut):
                await self._tell_elapsed(tale, step)

    async def _send(self, tale: Tale, step: Step) -> _Sent:
        at = self._clock.now()
        outcome = await self._stage.client.publish(tale.order, step.record(tale.order))
        return _Sent(tale, step, at, outcome)

    async def _tell(self, sent: _Sent) -> None:
        tale, step = sent.tale, sent.step
        outcome = await _patiently(sent.outcome, f"The outcome of a command about {tale.order}")
        references = outcome.get("data", {}).get("events", ())
        events = [await self._event(tale, reference["sequence"]) for reference in references]
        expected = getattr(step.expected, "events", ())
        difference = step.expected.difference(outcome) or _first_difference(expected, events)
        self._teller.told(Told(tale, step, _judged_at(outcome) or sent.at, outcome, events, difference))

    async def _tell_unread(self, tale: Tale) -> None:
        for sent in self._unread:
            if sent.tale is tale:
                await self._tell(sent)

    async def _tell_elapsed(self, tale: Tale, step: RunsOut) -> None:
        waiting = self._watch.auto_acceptance(tale.order, step.dispute_id)
        seen = await _patiently(waiting, f"The auto-acceptance of a dispute about {tale.order}")
        following = range(seen.event["sequence"] + 1, seen.event["sequence"] + len(step.events))
        events = [seen.event] + [await self._event(tale, sequence) for sequence in following]
        late = seen.seen_at - self._clock.real(datetime.fromisoformat(seen.event["data"]["deadline"]))
        self._teller.elapsed(Elapsed(tale, step, events, late, _first_difference(step.events, events)))

    async def _event(self, tale: Tale, sequence: int) -> Json:
        seen = await _patiently(self._watch.event(tale.order, sequence), f"Event {sequence} of {tale.order}")
        return seen.event

    async def _deadlines(self, moment: Moment) -> list[datetime]:
        """Those of the disputes that run out, or are declined, in a moment."""
        return [
            await _patiently(self._watch.deadline(tale.order, dispute_id), f"A dispute about {tale.order}")
            for tale in self._tales
            for step in tale.steps
            if step.when is moment and (dispute_id := _dispute_at_stake(step))
        ]

    async def _reach(self, instant: datetime, why: str = "") -> None:
        """Returns at a business time. Says what is waited for if that takes long enough to wonder."""
        seconds = (self._clock.real(instant) - datetime.now(UTC)).total_seconds()
        if why and seconds > _WORTH_A_WORD_SECONDS:
            self._teller.waits(why, instant, seconds)
        if seconds > 0:
            await asyncio.sleep(seconds)


def _dispute_at_stake(step: Step | RunsOut) -> str | None:
    if isinstance(step, RunsOut):
        return step.dispute_id
    return step.what.dispute_id if isinstance(step.what, Decline) else None


def _judged_at(outcome: Json) -> datetime | None:
    """When a command was judged, in business time. None for a dead letter, and for a repeat: it has the first time."""
    if "time" not in outcome or outcome["data"].get("duplicate"):
        return None
    return datetime.fromisoformat(outcome["time"])


def _first_difference(expected: Sequence[Happens], found: Sequence[Json]) -> str | None:
    """Between events, as far as there are both; that there are as many is the outcome's matter."""
    differences = (one.difference(event) for one, event in zip(expected, found, strict=False))
    return next((difference for difference in differences if difference), None)


async def _patiently(waiting: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await waiting
    except TimeoutError:
        raise DemoError(f"{what} did not come within {_PATIENCE_SECONDS} s.") from None
