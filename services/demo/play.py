"""Plays the story on the running service: each step at its moment. Compares each outcome with the expected one."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from resolution_contracts.client import SequenceBroken
from resolution_contracts.values import format_instant

from .narrate import Narrator
from .script import Expected, Json, Moment, RunsOut, Step, Tale, event_name
from .stage import DemoError, Stage, TooSlow, ready

T = TypeVar("T")

_PACE = timedelta(minutes=30)
"""The shortest business time between two steps. In real time a tenth of a second, so that people can follow."""

_SURELY_LATE = timedelta(hours=2)
"""How long to wait after a deadline by this machine's clock, because commands are judged by the broker's clock."""

_WORTH_A_WORD_SECONDS = 0.3
_PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class _Sent:
    """A step that was published."""

    tale: Tale
    """The tale of the step's order."""
    step: Step
    """The step."""
    at: datetime
    """The business time at which it was published."""
    outcome: asyncio.Future[Json]
    """The step's outcome, once it arrives."""


class _SeenEvents:
    """The events that the contract's client received, with the real time at which each arrived."""

    def __init__(self) -> None:
        self._events: list[tuple[Json, datetime]] = []
        self._news = asyncio.Condition()

    async def follow(self, stage: Stage) -> None:
        async for received in stage.client.events("beginning"):
            event = json.loads(received.envelope.model_dump_json())
            async with self._news:
                self._events.append((event, datetime.now(UTC)))
                self._news.notify_all()

    async def first(self, order: str, wanted: Callable[[Json], bool]) -> tuple[Json, datetime]:
        """Waits for an order's first event that is wanted. Returns it with the real time of its arrival."""
        async with self._news:
            while True:
                for event, seen_at in self._events:
                    if event["subject"] == order and wanted(event):
                        return event, seen_at
                await self._news.wait()


class Director:
    """Plays one story."""

    def __init__(self, stage: Stage, narrator: Narrator, tales: Sequence[Tale], start: datetime) -> None:
        self._stage = stage
        self._clock = stage.clock
        self._narrator = narrator
        self._tales = tales
        self._start = start
        self._next_step = start
        self._told_about: set[str] = set()
        self._unread: list[_Sent] = []
        self._seen = _SeenEvents()
        self.told: list[Json] = []
        """What was printed about each step, and about each dispute that ran out."""

    async def play(self) -> None:
        """Plays all steps. Raises DemoError if an outcome or event does not arrive, and aiokafka's KafkaError."""
        following = asyncio.create_task(self._seen.follow(self._stage))
        try:
            self._narrator.opens(self._clock, self._start)
            for moment in Moment:
                self._narrator.tell("chapter", title=moment.value)
                await self._begin(moment)
                for tale in self._tales:
                    for steps in tale.at(moment):
                        await self._play(tale, steps)
                    if moment is Moment.RECOVERY:
                        await self._tell_unread(tale)
        finally:
            following.cancel()
            [ended] = await asyncio.gather(following, return_exceptions=True)
            if isinstance(ended, SequenceBroken):
                raise DemoError(f"Events are missing on Kafka: {ended}.")

    async def _begin(self, moment: Moment) -> None:
        """Waits for a moment and starts or stops roles before the moment's first step."""
        match moment:
            case Moment.DAY_2:
                await self._reach(self._start + timedelta(days=1), "The night passes")
            case Moment.RUN_OUT:
                first = min(await self._deadlines(moment))
                await self._reach(first, "Waiting for the next deadline")
            case Moment.OUTAGE:
                await self._stop_reading()
            case Moment.OVERDUE:
                last = max(await self._deadlines(moment))
                await self._reach(last + _SURELY_LATE, "Waiting for the deadlines of the requests of day 2")
            case Moment.RECOVERY:
                self._stage.roles.start("commands")
                await ready(self._stage.roles)
                self._narrator.note("A command counts from when Kafka took it, not from when it is read (D1).")

    async def _stop_reading(self) -> None:
        process = self._stage.roles.pid("commands")
        await self._stage.roles.stop("commands")
        self._narrator.note(f"Process {process} has ended. What is published from now on waits in Kafka.")
        if self._clock.now() >= min(await self._deadlines(Moment.OUTAGE)):
            raise TooSlow(
                "This machine was too slow for the story: a deadline passed before the answer that should be in time "
                "was sent. Try again when the machine is less busy."
            )

    async def _play(self, tale: Tale, steps: Sequence[Step | RunsOut]) -> None:
        """Plays steps that happen at once. Publishes all of them before it waits for the first outcome."""
        if tale.order not in self._told_about:
            self._told_about.add(tale.order)
            self._narrator.tell("order", order=tale.order, title=tale.title, purpose=tale.purpose)
        await self._reach(self._next_step)
        self._next_step = self._clock.now() + _PACE
        sent = [await self._send(tale, step) for step in steps if isinstance(step, Step)]
        for published in sent:
            if published.step.when in (Moment.OUTAGE, Moment.OVERDUE):
                self._narrator.tell_at("published", published.at, **_facts(published))
                self._unread.append(published)
            else:
                await self._tell(published)
        for step in steps:
            if isinstance(step, RunsOut):
                await self._tell_elapsed(tale, step)

    async def _send(self, tale: Tale, step: Step) -> _Sent:
        at = self._clock.now()
        return _Sent(tale, step, at, await self._stage.client.publish(tale.order, step.record(tale.order)))

    async def _tell(self, sent: _Sent) -> None:
        order, expected = sent.tale.order, sent.step.expected
        outcome = await _within_bound(sent.outcome, f"The outcome of a command about {order}")
        data = outcome.get("data", {})
        events = [await self._event(order, reference["sequence"]) for reference in data.get("events", ())]
        difference = expected.difference(outcome) or _first_difference(expected, events)
        self._tell_of(
            "step",
            _judged_at(outcome) or sent.at,
            difference,
            **_facts(sent),
            outcome="dead" if "dead" in outcome else "rejected" if "code" in data else "accepted",
            duplicate=data.get("duplicate", False),
            code=data.get("code"),
            message=data.get("message") or outcome.get("dead"),
            events=events,
        )

    async def _tell_unread(self, tale: Tale) -> None:
        for sent in self._unread:
            if sent.tale is tale:
                await self._tell(sent)

    async def _tell_elapsed(self, tale: Tale, step: RunsOut) -> None:
        event, seen_at = await self._about(tale.order, "AutoAccepted", step.dispute_id)
        following = range(event["sequence"] + 1, event["sequence"] + len(step.expected.events))
        events = [event] + [await self._event(tale.order, sequence) for sequence in following]
        deadline = datetime.fromisoformat(event["data"]["deadline"])
        self._tell_of(
            "auto_accepted",
            deadline,
            _first_difference(step.expected, events),
            order=tale.order,
            told=step.told,
            dispute_id=step.dispute_id,
            late_ms=(seen_at - self._clock.real(deadline)) // timedelta(milliseconds=1),
            events=events,
        )

    def _tell_of(self, kind: str, at: datetime, difference: str | None, **facts: Any) -> None:
        facts |= {"as_told": difference is None, "difference": difference}
        self.told.append({"kind": kind} | facts)
        self._narrator.tell_at(kind, at, **facts)

    async def _event(self, order: str, sequence: int) -> Json:
        wanted = self._seen.first(order, lambda event: event["sequence"] == sequence)
        return (await _within_bound(wanted, f"Event {sequence} of {order}"))[0]

    async def _about(self, order: str, name: str, dispute_id: str) -> tuple[Json, datetime]:
        """Returns a dispute's event of this name, and the real time of its arrival."""
        wanted = self._seen.first(
            order, lambda event: event_name(event) == name and event["data"]["dispute_id"] == dispute_id
        )
        return await _within_bound(wanted, f"{name} of a dispute about {order}")

    async def _deadlines(self, moment: Moment) -> list[datetime]:
        """Returns the deadlines of the disputes that run out, or are declined, in a moment."""
        opened = [
            (await self._about(tale.order, "DisputeOpened", dispute_id))[0]
            for tale in self._tales
            for step in tale.steps
            if step.when is moment and (dispute_id := _dispute_at_stake(step))
        ]
        return [datetime.fromisoformat(event["data"]["respond_by"]) for event in opened]

    async def _reach(self, instant: datetime, why: str = "") -> None:
        """Waits for a business time. Prints `why` if the wait is long enough to be noticed."""
        seconds = (self._clock.real(instant) - datetime.now(UTC)).total_seconds()
        if why and seconds > _WORTH_A_WORD_SECONDS:
            self._narrator.tell("wait", why=why, until=format_instant(instant), seconds=round(seconds, 3))
        if seconds > 0:
            await asyncio.sleep(seconds)


def _facts(sent: _Sent) -> Json:
    """Returns who did what, for the narrator."""
    step = sent.step
    known = {"order": sent.tale.order, "who": step.who.name, "does": step.does}
    command = {"command": step.command, "type": step.type, "command_id": step.id}
    return known | (command if step.command else dict.fromkeys(command))


def _dispute_at_stake(step: Step | RunsOut) -> str | None:
    if isinstance(step, RunsOut):
        return step.dispute_id
    return step.data["dispute_id"] if step.command == "Decline" else None


def _judged_at(outcome: Json) -> datetime | None:
    """Returns the business time of a command. None for a dead letter, and for a repeat, which has the first time."""
    if "time" not in outcome or outcome["data"].get("duplicate"):
        return None
    return datetime.fromisoformat(outcome["time"])


def _first_difference(expected: Expected, found: Sequence[Json]) -> str | None:
    """Returns the first difference between the expected events and those found. Does not compare their number."""
    differences = (happens.difference(event) for happens, event in zip(expected.events, found, strict=False))
    return next((difference for difference in differences if difference), None)


async def _within_bound(waiting: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await waiting
    except TimeoutError:
        raise DemoError(f"{what} did not come within {_PATIENCE_SECONDS} s.") from None
