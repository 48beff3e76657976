"""What a story is made of: people, tales, their steps, and what each step is expected to bring."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from resolution_contracts import EVENTS, Code, CommandEnvelope, Money
from resolution_contracts.topics import command_type
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
class Expected:
    """What has to become of a step: it is accepted, unless there is a code or a dead letter's reason."""

    events: tuple[Happens, ...] = ()
    """Those that the outcome names."""
    again: bool = False
    """It is a repeat, and the events are those of before."""
    code: Code | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Those of a rejection that matter for the tale."""
    dead: str = ""
    """Words of the reason why the record becomes a dead letter."""

    @property
    def new_events(self) -> tuple[Happens, ...]:
        """Those that this step adds to the order's history."""
        return () if self.again else self.events

    def difference(self, outcome: Json) -> str | None:
        """What an outcome's envelope, or `{"dead": reason}`, has else than expected; None if nothing."""
        found = _described(outcome)
        if self.dead in outcome.get("dead", "-") if self.dead else found == self._described():
            return _differing(self.code, self.details, outcome["data"]["details"]) if self.code else None
        return f"expected {self._described()}; found {found}"

    def _described(self) -> str:
        if self.dead:
            return f"a dead letter: {self.dead}"
        if self.code:
            return f"rejected, {self.code}"
        return f"accepted{', again' if self.again else ''}: {_listed([event.name for event in self.events])}"


@dataclass(frozen=True)
class Said:
    """A command, but for who sends it: its name, and the rest of its data."""

    command: str
    data: Json


@dataclass(frozen=True, kw_only=True)
class Step:
    """Somebody sends a command, or something that is none."""

    when: Moment = Moment.DAY_1
    """`on` says when."""
    who: "Person"
    does: str
    what: Said | bytes
    expected: Expected
    id: str
    """The command's id."""
    at_once: bool = False
    """The next step is published in the same moment, before this one's outcome is known."""

    def record(self, order: str) -> bytes:
        """The value of the record to publish; its key is the order's id."""
        if isinstance(self.what, bytes):
            return self.what
        type_ = command_type(self.command)
        return CommandEnvelope(id=self.id, type=type_, source=self.who.source, subject=order, data=self.data).to_json()

    @property
    def command(self) -> str:
        """The command's name; empty if it is none."""
        return "" if isinstance(self.what, bytes) else self.what.command

    @property
    def data(self) -> Json:
        """The command's data, as it is sent."""
        if isinstance(self.what, bytes):
            return {}
        actor = {"actor": self.who.id} if self.who.id else {}
        return actor | {name: _on_the_wire(value) for name, value in self.what.data.items() if value is not None}


@dataclass(frozen=True)
class Person:
    """Somebody, or a service, that sends commands."""

    id: str
    """As the orders know them."""
    name: str
    """As the story calls them."""
    source: str = "/website"

    def does(
        self, does: str, what: Said | bytes, *expected: Happens | Expected, id: str = "", at_once: bool = False
    ) -> Step:
        """A step. Expected are the events that an accepted command brings out, or one thing else."""
        events = tuple(one for one in expected if isinstance(one, Happens))
        [become] = [one for one in expected if isinstance(one, Expected)] or [Expected(events)]
        return Step(who=self, does=does, what=what, expected=become, id=id or new_id(), at_once=at_once)


@dataclass(frozen=True, kw_only=True)
class RunsOut:
    """Nobody answered a dispute for 48 hours: the timer sees to it that the order accepts it by itself."""

    when: Moment = Moment.RUN_OUT
    """`on` says when."""
    dispute_id: str
    told: str
    expected: Expected


class Tale:
    """An order's tale: what it is about, and its steps in the order of its history."""

    def __init__(self, order: str, title: str, purpose: str, *steps: Sequence[Step | RunsOut]) -> None:
        self.order, self.title, self.purpose = order, title, purpose
        self.steps = [step for some in steps for step in some]

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
        return [event for step in self.steps for event in step.expected.new_events]

    @property
    def sent(self) -> list[Step]:
        """The steps that publish something."""
        return [step for step in self.steps if isinstance(step, Step)]


# --- the words in which a story is written ---


def on(moment: Moment, *steps: Step | RunsOut) -> list[Step | RunsOut]:
    """These steps happen in this moment."""
    return [replace(step, when=moment) for step in steps]


def sends(command: str) -> Callable[..., Said]:
    """Such a command: its data are named when it is used."""
    return lambda **data: Said(command, data)


def happens(name: str, **data: Any) -> Happens:
    return Happens(name, data)


def runs_out(dispute: str, told: str, *events: Happens) -> RunsOut:
    return RunsOut(dispute_id=dispute, told=told, expected=Expected(events))


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
