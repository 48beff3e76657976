"""What a story is made of: people, tales, their steps, and what each step is expected to bring."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from resolution_contracts import EVENTS, Code, Command, CommandEnvelope, Money
from resolution_contracts.values import format_instant

from services.orders.money import read_money

Json = dict[str, Any]


class Moment(Enum):
    """When a step happens. The story goes through these in order, and every tale does its part of each."""

    DAY_1 = "Day 1: orders come in, and with them disputes"
    DAY_2 = "Day 2: some end well, some do not"
    RUN_OUT = "Day 3: what nobody has answered runs out"
    DAY_3 = "Day 3: and what follows from it"
    OUTAGE = "The commands role is stopped; Kafka takes commands all the same"
    OVERDUE = "Still stopped, and 48 hours are over"
    RECOVERY = "The commands role is back and reads what waited"
    EPILOGUE = "Afterwards"


@dataclass(frozen=True)
class Person:
    """Somebody, or a service, that sends commands: the id that the orders know, and the name that the story uses."""

    id: str
    name: str
    source: str = "/website"


@dataclass(frozen=True)
class Happens:
    """An event that is expected, by its name; `data` holds the fields that matter for the tale."""

    name: str
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        assert self.name in EVENTS, self.name

    def difference(self, event: Json) -> str | None:
        """What an event's envelope has else than expected; None if nothing."""
        name = event_name(event)
        if name != self.name:
            return f"expected {self.name}, found {name}"
        return _differing(self.name, self.data, event["data"])


@dataclass(frozen=True)
class Taken:
    """The command is accepted and brings out these events. `again`: it is a repeat, and they are those of before."""

    events: tuple[Happens, ...]
    again: bool = False

    @property
    def new_events(self) -> tuple[Happens, ...]:
        """Those that this command adds to the order's history."""
        return () if self.again else self.events

    def difference(self, outcome: Json) -> str | None:
        """What an outcome's envelope has else than expected; None if nothing."""
        data = outcome.get("data", {})
        names = [event.name for event in self.events]
        found = [event_name(reference) for reference in data.get("events", ())]
        if "events" not in data or found != names or data.get("duplicate", False) is not self.again:
            return f"expected accepted{', again' if self.again else ''}: {_listed(names)}; found {_described(outcome)}"
        return None


@dataclass(frozen=True)
class Refused:
    """The command is rejected with this code; `details` holds those that matter for the tale."""

    code: Code
    details: Mapping[str, Any]
    new_events: tuple[Happens, ...] = ()

    def difference(self, outcome: Json) -> str | None:
        """See Taken."""
        data = outcome.get("data", {})
        if data.get("code") != self.code:
            return f"expected rejected, {self.code}; found {_described(outcome)}"
        return _differing(self.code, self.details, data["details"])


@dataclass(frozen=True)
class Dead:
    """The record is no command and becomes a dead letter, for a reason with these words."""

    reason: str
    new_events: tuple[Happens, ...] = ()

    def difference(self, outcome: Json) -> str | None:
        """See Taken."""
        if self.reason not in outcome.get("dead", ""):
            return f"expected a dead letter: {self.reason}; found {_described(outcome)}"
        return None


@dataclass(frozen=True)
class Step:
    """Somebody sends a command, or something that is none.

    `at_once`: the next step is published in the same moment, before this one's outcome is known.
    """

    when: Moment
    who: Person
    does: str
    what: Command | bytes
    expected: Taken | Refused | Dead
    id: str = field(default_factory=lambda: str(uuid4()))
    at_once: bool = False

    def record(self, order: str) -> bytes:
        """The value of the record to publish; its key is the order's id."""
        if isinstance(self.what, bytes):
            return self.what
        return CommandEnvelope.of(order, self.what, source=self.who.source, id=self.id).to_json()

    @property
    def command(self) -> str:
        """The command's name; empty if it is none."""
        return "" if isinstance(self.what, bytes) else type(self.what).__name__

    @property
    def events(self) -> tuple[Happens, ...]:
        """What it adds to the order's history."""
        return self.expected.new_events


@dataclass(frozen=True)
class RunsOut:
    """Nobody answered a dispute for 48 hours: the timer sees to it that the order accepts it by itself."""

    when: Moment
    dispute_id: str
    told: str
    events: tuple[Happens, ...]


@dataclass(frozen=True)
class Tale:
    """An order's tale: what it is about, and its steps in the order of its history."""

    order: str
    title: str
    purpose: str
    steps: tuple[Step | RunsOut, ...]

    def at(self, moment: Moment) -> Iterator[list[Step | RunsOut]]:
        """The steps of a moment; those that happen at once come together."""
        together: list[Step | RunsOut] = []
        for step in self.steps:
            if step.when is moment:
                together.append(step)
                if not (isinstance(step, Step) and step.at_once):
                    yield together
                    together = []

    @property
    def events(self) -> list[Happens]:
        """The order's whole history, as expected."""
        return [event for step in self.steps for event in step.events]

    @property
    def sent(self) -> list[Step]:
        """The steps that publish something."""
        return [step for step in self.steps if isinstance(step, Step)]


# --- the words in which a story is written ---


def happens(name: str, **data: Any) -> Happens:
    return Happens(name, data)


def taken(*events: Happens) -> Taken:
    return Taken(events)


def taken_again(*events: Happens) -> Taken:
    return Taken(events, again=True)


def refused(code: Code, **details: Any) -> Refused:
    return Refused(code, details)


def dead(reason: str) -> Dead:
    return Dead(reason)


def new_id() -> str:
    """An id for a command that others refer to: a dispute has the id of the command that opened it."""
    return str(uuid4())


# --- comparing with the wire ---


def event_name(event: Mapping[str, Any]) -> str:
    """`Accepted` of an event, or of a reference to one."""
    name: str = event["type"].split(".")[2]
    return name


def _differing(about: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    for name, value in expected.items():
        if found.get(name) != _on_the_wire(value):
            return f"{about}: expected {name} = {_on_the_wire(value)}, found {found.get(name)}"
    return None


def _on_the_wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_instant(value)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _described(outcome: Json) -> str:
    if "dead" in outcome:
        return f"a dead letter: {outcome['dead']}"
    data = outcome["data"]
    again = ", again" if data.get("duplicate") else ""
    if "code" in data:
        return f"rejected{again}, {data['code']}"
    return f"accepted{again}: {_listed([event_name(reference) for reference in data['events']])}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "no event"


def money(units: int, currency: str) -> Money:
    """Whole units as the contract's minor ones: `money(120, "USD")` is 12000 cents, `money(599, "JPY")` 599 yen."""
    return Money(**read_money(str(units), currency))
