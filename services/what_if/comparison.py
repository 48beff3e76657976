"""Judges commands under other terms, beside what came of them, and compares both courses of events order by order."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from resolution_contracts.commands import Command
from resolution_contracts.outcomes import Code
from resolution_contracts.values import SettledAs

from services.orders import Order, Rejected
from services.orders.decide import Decision, auto_acceptance, decide
from services.orders.events import EVENTS, Event, OrderRegistered, Written, annotated
from services.orders.evolve import evolve
from services.orders.public_events import public_fields

from .change import Change
from .tally import Tally

_ANSWERS = ("Accept", "Decline", "Withdraw")
_NOT_JUDGED = ("RegisterOrder", "ExpireDispute")
"""Terms decide nothing about a registration. The timer's commands came at the deadlines that there were."""
_OF_TERMS = {"terms", "respond_by", "deadline"}
_COMPARED = {
    event: tuple(name for name in public_fields(event) if name not in _OF_TERMS | annotated(event, Written))
    for event in EVENTS.values()
}
"""What makes two events the same: all but times that the terms decide, and texts."""


class Asked(msgspec.Struct, gc=False):
    """A command to judge again."""

    command: Command | Rejected
    """The command, or why its data is invalid."""
    command_id: str
    """Its id."""
    time: datetime
    """The business time of its record."""
    as_before: bool = False
    """Whether to compare ids as earlier versions did."""


class Step(msgspec.Struct, gc=False):
    """What came of one command."""

    order_id: str
    """The order that the command is about."""
    name: str
    """The command's name. Empty if nothing tells it."""
    code: str
    """Why it was rejected; empty if it was accepted."""
    settled_as: str
    """What the rejection says about the dispute, if anything."""
    events: Sequence[Event]
    """What followed from it. Texts are not needed."""
    asked: Asked | None = None
    """The command. None if its content is not known any more."""
    as_before: Callable[[], Asked | None] = lambda: None
    """Reads the command as earlier versions did, if they could."""


class Course(NamedTuple):
    """What came of a command under some terms."""

    code: str
    events: Sequence[Event]


class Difference(msgspec.Struct, frozen=True):
    """Where the two courses of an order part."""

    order_id: str
    at: datetime
    """In business time."""
    before: str
    """What happened: an event's name, or what became of a command."""
    after: str
    """What would have happened."""


class _Courses(msgspec.Struct):
    """The two courses of an order."""

    before: Order
    after: Order
    ahead: list[Event] = []
    """The events of one course that the other has not had yet."""
    after_is_ahead: bool = False
    """Whether `ahead` are those of the other terms."""
    other_times: bool = False
    """Whether an event has another time."""
    parted: Difference | None = None
    """The first difference, or None."""


class Comparison:
    """Compares two courses of events: under the terms that orders had, and under those of a change."""

    def __init__(self, change: Change, written: Callable[[Event], None] | None = None) -> None:
        """`written` gets each event under the changed terms, those of an order in their sequence."""
        self.change = change
        self.before, self.after = Tally(), Tally()
        self.commands: Counter[tuple[str, str, str]] = Counter()
        """How many commands would have become something else, by name, code before, and code after."""
        self.unknown = 0
        """Rejected commands of these orders that were not judged again, because their content has expired."""
        self._orders: dict[str, _Courses] = {}
        self._written = written

    # --- what came of each command, in the order of judging ---

    def take(self, step: Step) -> tuple[Course, Course] | None:
        """Judges a command again. Returns what came of it and what would have, or None for an order without change."""
        first = step.events[0] if step.events else None
        if isinstance(first, OrderRegistered) and self.change.covers(first):
            self._orders[step.order_id] = _Courses(Order(id=step.order_id), Order(id=step.order_id))
        courses = self._orders.get(step.order_id)
        if courses is None:
            return None
        would = self._would(courses, step)
        self.before.answers_too_late += _is_too_late(step)
        self.after.answers_too_late += _is_too_late(would)
        for event in step.events:
            self._happened(courses, event)
        for event in would.events:
            self._would_have(courses, event)
        if would.code != step.code:
            self.commands[step.name, step.code, would.code] += 1
            assert step.asked is not None
            at = courses.after.business_time(step.asked.time)
            self._part(courses, at, *(f"{step.name} {_described(each.code)}" for each in (step, would)))
        return Course(step.code, step.events), Course(would.code, would.events)

    def _would(self, courses: _Courses, step: Step) -> Step:
        """Returns what would have come of a command."""
        would = Step(step.order_id, step.name, step.code, step.settled_as, ())
        if step.events and isinstance(step.events[0], OrderRegistered):
            would.events = [self.change.applied(step.events[0])]
        elif step.asked is not None and step.name not in _NOT_JUDGED:
            decision, would.code = self._judge(courses, step, step.asked)
            would.events = decision.events
            would.settled_as = str(decision.rejection.details.get("settled_as", "")) if decision.rejection else ""
        else:
            self.unknown += bool(step.code) and step.name not in _NOT_JUDGED
            time = step.asked.time if step.asked else max((event.timestamp for event in step.events), default=None)
            if time is not None:  # whoever comes notices a deadline (D3)
                would.events = auto_acceptance(courses.after, courses.after.business_time(time))
        return would

    def _judge(self, courses: _Courses, step: Step, asked: Asked) -> tuple[Decision, str]:
        """Judges the command under the other terms. Returns the decision, and the code that it would have had then.

        Reads it as the version did that judged it: if this version would not have given the outcome under the terms
        that the order had, an earlier one gave it.
        """
        decision = _decide(courses.after, asked)
        code = _code(decision)
        if code == step.code or (own := _code(_decide(courses.before, asked))) == step.code:
            return decision, code
        if (step.code, own) == (Code.INVALID, Code.REFUND_OVER_LIMIT):  # earlier versions had the limit in the schema
            return decision, step.code if code == own else code
        if (earlier := step.as_before()) is None:
            return decision, code
        decision = _decide(courses.after, earlier)
        return decision, _code(decision)

    # --- the two courses ---

    def end(self, until: Callable[[str], datetime]) -> None:
        """Lets time pass on each order until the business time that `until` returns for it (D3).

        That is now, or the time of the first command that was not judged yet: it may be an answer in time (D4).
        """
        for order_id, courses in self._orders.items():
            now = until(order_id)
            for event in auto_acceptance(courses.before, now):
                self._happened(courses, event)
            for event in auto_acceptance(courses.after, now):
                self._would_have(courses, event)
            if courses.ahead:
                event = courses.ahead[0]
                names = ("nothing", _name(event)) if courses.after_is_ahead else (_name(event), "nothing")
                self._part(courses, event.timestamp, *names)

    def _happened(self, courses: _Courses, event: Event) -> None:
        evolve(courses.before, event)
        self.before.add(event)
        self._compare(courses, event, is_after=False)

    def _would_have(self, courses: _Courses, event: Event) -> None:
        evolve(courses.after, event)
        self.after.add(event)
        if self._written is not None:
            self._written(event)
        self._compare(courses, event, is_after=True)

    def _compare(self, courses: _Courses, event: Event, *, is_after: bool) -> None:
        """Holds an event against the next one of the other course, or keeps it until that comes."""
        if courses.parted is not None:
            return
        if not courses.ahead or courses.after_is_ahead == is_after:
            courses.ahead.append(event)
            courses.after_is_ahead = is_after
            return
        other = courses.ahead.pop(0)
        if _content(event) != _content(other):
            before, after = (other, event) if is_after else (event, other)
            self._part(courses, min(event.timestamp, other.timestamp), _name(before), _name(after))
        elif event.timestamp != other.timestamp:
            courses.other_times = True

    def _part(self, courses: _Courses, at: datetime, before: str, after: str) -> None:
        if courses.parted is None:
            courses.parted = Difference(courses.before.id, at, before, after)
            courses.ahead = []

    # --- the result ---

    @property
    def orders(self) -> int:
        """How many orders would have had the other terms."""
        return len(self._orders)

    @property
    def differences(self) -> list[Difference]:
        """The orders that would have come out differently, in the order of their registration."""
        return [courses.parted for courses in self._orders.values() if courses.parted is not None]

    @property
    def only_other_times(self) -> int:
        """How many orders would have had the same events at other times."""
        return sum(courses.other_times and courses.parted is None for courses in self._orders.values())

    def order(self, order_id: str) -> Order | None:
        """Returns an order as it is, or None if it would not have had other terms."""
        courses = self._orders.get(order_id)
        return None if courses is None else courses.before


def _decide(order: Order, asked: Asked) -> Decision:
    now = order.business_time(asked.time)
    return decide(order, asked.command, asked.command_id, now, ids_as_written=asked.as_before)


def _code(decision: Decision) -> str:
    return "" if decision.rejection is None else str(decision.rejection.code)


def _is_too_late(step: Step) -> bool:
    return step.name in _ANSWERS and step.settled_as == SettledAs.AUTO_ACCEPTED


def _content(event: Event) -> tuple[Any, ...]:
    kind = type(event)
    return (kind, *[getattr(event, name) for name in _COMPARED[kind]])


def _name(event: Event) -> str:
    return type(event).__name__


def _described(code: str) -> str:
    return f"rejected: {code}" if code else "accepted"
