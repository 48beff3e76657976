"""The parts of a story: people, tales, their steps, and the expected result of each step."""

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
    """When a step happens. The story plays these in order. In each one, it plays that part of every tale."""

    DAY_1 = "Day 1: orders come in, and with them disputes"
    DAY_2 = "Day 2: some end well, some do not"
    RUN_OUT = "Day 3: what nobody has answered runs out"
    DAY_3 = "Day 3: and what follows from it"
    OUTAGE = "The commands role is stopped; Kafka takes commands all the same"
    OVERDUE = "Still stopped, and the deadlines are over"
    RECOVERY = "The commands role is back and reads what waited"
    EPILOGUE = "Afterwards"


@dataclass(frozen=True)
class Happens:
    """An expected event: its name, and the data fields that matter for the tale."""

    name: str
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        assert self.name in EVENTS, self.name

    def difference(self, event: Json) -> str | None:
        """Returns how an event's envelope differs from what is expected, or None."""
        name = event_name(event)
        if name != self.name:
            return f"expected {self.name}, found {name}"
        return _differing(self.name, self.data, event["data"])


@dataclass(frozen=True)
class Expected:
    """The expected outcome of a step. It is accepted, unless there is a code or a dead letter's reason."""

    events: tuple[Happens, ...] = ()
    """The events that the outcome names."""
    again: bool = False
    """Whether the step is a repeat, so that the events are those of the first time."""
    code: Code | None = None
    """The code of a rejection."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The details of a rejection that matter for the tale."""
    dead: str = ""
    """A part of the reason why the record becomes a dead letter."""

    @property
    def new_events(self) -> tuple[Happens, ...]:
        """The events that this step adds to the order's history."""
        return () if self.again else self.events

    def difference(self, outcome: Json) -> str | None:
        """Returns how an outcome's envelope, or `{"dead": reason}`, differs from what is expected, or None."""
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
    """A command without its sender: its name, its version, and the rest of its data."""

    command: str
    data: Json
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """Somebody sends a command, or a record that isn't a command."""

    when: Moment = Moment.DAY_1
    """Set by `on`."""
    who: "Person"
    """The person who sends it."""
    does: str
    """What the person does, in the story's words."""
    what: Said | bytes
    """The command, or the bytes of a record that isn't one."""
    expected: Expected
    """What the service must do."""
    id: str
    """The command's id."""
    at_once: bool = False
    """Whether the next step is published at the same moment, before this one's outcome is known."""

    def record(self, order: str) -> bytes:
        """Returns the value of the record to publish. Its key is the order's id."""
        if isinstance(self.what, bytes):
            return self.what
        source = self.who.source
        return CommandEnvelope(id=self.id, type=self.type, source=source, subject=order, data=self.data).to_json()

    @property
    def command(self) -> str:
        """The command's name. Empty if the record isn't a command."""
        return "" if isinstance(self.what, bytes) else self.what.command

    @property
    def type(self) -> str:
        """The command's name with its version, as its envelope has it. Empty if the record isn't a command."""
        return "" if isinstance(self.what, bytes) else command_type(self.what.command, self.what.version)

    @property
    def data(self) -> Json:
        """The command's data, as the step sends it."""
        if isinstance(self.what, bytes):
            return {}
        actor = {"actor": self.who.id} if self.who.id else {}
        return actor | {name: _on_the_wire(value) for name, value in self.what.data.items() if value is not None}


@dataclass(frozen=True)
class Person:
    """A person, or a service, that sends commands."""

    id: str
    """The user id. Empty for a service."""
    name: str
    """The name in the story."""
    source: str = "/website"

    def does(
        self, does: str, what: Said | bytes, *expected: Happens | Expected, id: str = "", at_once: bool = False
    ) -> Step:
        """Makes a step. `expected` are the events of an accepted command, or one other outcome."""
        events = tuple(item for item in expected if isinstance(item, Happens))
        [outcome] = [item for item in expected if isinstance(item, Expected)] or [Expected(events)]
        return Step(who=self, does=does, what=what, expected=outcome, id=id or new_id(), at_once=at_once)


@dataclass(frozen=True, kw_only=True)
class RunsOut:
    """Nobody answers a dispute before its deadline. The timer asks, and the order accepts it automatically."""

    when: Moment = Moment.RUN_OUT
    """Set by `on`."""
    dispute_id: str
    """The dispute's id."""
    told: str
    """The sentence that the story prints."""
    expected: Expected
    """What the service must do."""


class Tale:
    """An order's tale: what it is about, and its steps in the order of its history."""

    def __init__(self, order: str, title: str, purpose: str, *steps: Sequence[Step | RunsOut]) -> None:
        self.order, self.title, self.purpose = order, title, purpose
        self.steps = [step for group in steps for step in group]

    def at(self, moment: Moment) -> Iterator[list[Step | RunsOut]]:
        """Yields the steps of a moment. Steps that happen at once are in one list."""
        together: list[Step | RunsOut] = []
        for step in self.steps:
            if step.when is moment:
                together.append(step)
                if not (isinstance(step, Step) and step.at_once):
                    yield together
                    together = []

    @property
    def events(self) -> list[Happens]:
        """The expected events of the order, oldest first."""
        return [event for step in self.steps for event in step.expected.new_events]

    @property
    def sent(self) -> list[Step]:
        """The steps that publish something."""
        return [step for step in self.steps if isinstance(step, Step)]


# --- functions for writing a story ---


def on(moment: Moment, *steps: Step | RunsOut) -> list[Step | RunsOut]:
    """Returns the steps with the moment at which they happen."""
    return [replace(step, when=moment) for step in steps]


def sends(command: str, version: int = 1) -> Callable[..., Said]:
    """Returns a function that makes such a command from its data."""
    return lambda **data: Said(command, data, version)


def happens(name: str, **data: Any) -> Happens:
    """Returns an expected event."""
    return Happens(name, data)


def runs_out(dispute: str, told: str, *events: Happens) -> RunsOut:
    """Returns the step at which a dispute is accepted automatically, with the expected events."""
    return RunsOut(dispute_id=dispute, told=told, expected=Expected(events))


def new_id() -> str:
    """Returns an id for a command that other steps refer to. A dispute has the id of the command that opened it."""
    return str(uuid4())


# --- comparing with the wire ---


def event_name(event: Mapping[str, Any]) -> str:
    """Returns the name, such as `Accepted`, of an event or of a reference to one."""
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
    """Converts whole units to minor units: `money(120, "USD")` is 12000 cents, `money(599, "JPY")` is 599 yen."""
    return Money(**read_money(str(units), currency))
