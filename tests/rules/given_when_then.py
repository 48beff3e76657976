"""Given commands, when a command, then exactly these events and this outcome.

    def test_D2_declining_at_48_hours_sharp_is_too_late():
        given(registered(), opened(cancellation()))
        when(decline(), at=T + 48 * HOURS)
        then(auto_accepted(), order_canceled(grounds="auto_accepted"), rejected("dispute_settled", ...))

Commands come from `tests.support.controls`; everything after `then` is here, named like the events of contract.md. A real
order judges each command. Every command is judged three times: with the order that has been there from the start, with
one that is loaded anew from what is stored, and by the oracle. All must say the same (D1), and no order may change by
that.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from resolution_contracts import Command, CommandEnvelope
from resolution_contracts.values import format_instant

from services.judging.decode import decode
from services.judging.record import Record
from services.orders import Order, Rejected
from services.orders.decide import decide
from services.orders.events import Event
from services.orders.evolve import evolve_all
from services.orders.public_events import public_data
from tests.rules.beside_oracle import as_published, event_of, read_by_oracle
from tests.rules.oracle import Oracle
from tests.support.controls import COMMENT, DUE, FIRST, HOURS, ORDER, T, as_record, command_id, in_envelope, untyped
from tests.support.in_memory import StoredInMemory

Sent = Command | CommandEnvelope
Step = Sent | tuple[datetime, Sent]
Outcome = tuple[str, dict[str, Any]] | None
"""A rejection's code and details, or None for an acceptance."""


# --- the three words ---


def given(*steps: Step) -> None:
    """A new order, and what was done to it before, all accepted: at T, or as `at` says, and on from there."""
    story = Story()
    _stories.set(story)
    for step in steps:
        story.play(step)
        assert story.outcome is None, f"given a command that is rejected: {step}, {story.outcome}"
    story.checked = True


def when(command: Sent, at: datetime | None = None, command_id: str | None = None) -> None:
    """One command more: at the time of the one before, or later; with an id of its own, or this one."""
    story = current()
    assert story.checked, "when ... when: what follows from the first? Say `then` in between"
    story.play(command if at is None else (at, command), command_id)


def then(*expected: "Expected | Outcome") -> None:
    """All events that the command brought out, in order, and the outcome: accepted, unless `rejected` comes last."""
    story = current()
    story.checked = True
    assert expected, "then what? `nothing()` is an acceptance without an event"
    events = [e for e in expected if isinstance(e, Expected)]
    outcomes = [e for e in expected if not isinstance(e, Expected)]
    assert expected == (*events, *outcomes), "the outcome comes last, and there is one"
    assert [_as_told(event) for event in story.new] == story.expect(events)
    assert story.outcome == (outcomes[0] if outcomes else None)


def at(time: datetime, command: Sent) -> Step:
    """In `given`: this command came at this time."""
    return time, command


def received(name: str, version: int = 1, **data: Any) -> CommandEnvelope:
    """A command as it comes from the wire, whatever its data: `received("Accept", actor="")`."""
    return untyped(name, data, version=version)


# --- what may follow ---


@dataclass(frozen=True)
class Expected:
    """An event by its name on the wire; `at` is None for "at the same time as the one before, or as the command"."""

    name: str
    at: datetime | None
    data: dict[str, Any]


def nothing() -> Outcome:
    """The command is accepted, and no event follows."""
    return None


def rejected(code: str, **details: Any) -> Outcome:
    return code, details


def order_registered(**facts: Any) -> Expected:
    usual = {
        "client_id": "client-1",
        "freelancer_id": "freelancer-1",
        "price": _usd(100_00),
        "expected_delivery_at": DUE,
        "awaiting_requirements": False,
    }
    return _event("OrderRegistered", None, **(usual | facts))


def requirements_submitted(expected_delivery_at: datetime = DUE) -> Expected:
    return _event("RequirementsSubmitted", None, expected_delivery_at=expected_delivery_at)


def order_delivered(at: datetime | None = None) -> Expected:
    return _event("OrderDelivered", at)


def revision_requested(at: datetime | None = None) -> Expected:
    return _event("RevisionRequested", at)


def order_completed(at: datetime | None = None) -> Expected:
    return _event("OrderCompleted", at)


def dispute_opened(
    kind: str,
    by: str,
    dispute: str = FIRST,
    respond_by: datetime = T + 48 * HOURS,
    at: datetime | None = None,
    **request: Any,
) -> Expected:
    return _event("DisputeOpened", at, dispute_id=dispute, kind=kind, opened_by=by, respond_by=respond_by, **request)


def accepted(
    kind: str = "cancellation",
    by: str = "freelancer",
    dispute: str = FIRST,
    message: str | None = None,
    at: datetime | None = None,
) -> Expected:
    return _event("Accepted", at, dispute_id=dispute, kind=kind, by=by, message=message)


def declined(
    kind: str = "cancellation",
    by: str = "freelancer",
    dispute: str = FIRST,
    message: str | None = None,
    at: datetime | None = None,
) -> Expected:
    return _event("Declined", at, dispute_id=dispute, kind=kind, by=by, message=message)


def withdrawn(kind: str = "cancellation", by: str = "client", dispute: str = FIRST) -> Expected:
    return _event("Withdrawn", None, dispute_id=dispute, kind=kind, by=by)


def auto_accepted(kind: str = "cancellation", dispute: str = FIRST, at: datetime = T + 48 * HOURS) -> Expected:
    """As of the deadline, which is both the event's time and in its data."""
    return _event("AutoAccepted", at, dispute_id=dispute, kind=kind, deadline=at)


def dispute_closed(
    because: str, kind: str = "cancellation", dispute: str = FIRST, at: datetime | None = None
) -> Expected:
    return _event("DisputeClosed", at, dispute_id=dispute, kind=kind, because=because)


def delivery_date_extended(days: int, expected_delivery_at: datetime, dispute: str = FIRST) -> Expected:
    return _event(
        "DeliveryDateExtended", None, dispute_id=dispute, days=days, expected_delivery_at=expected_delivery_at
    )


def order_canceled(
    grounds: str = "agreement",
    by: str = "client",
    dispute: str | None = FIRST,
    affects_metrics: bool = True,
    refund_due: int | None = 100_00,
    comment: str | None = COMMENT,
    at: datetime | None = None,
) -> Expected:
    return _event(
        "OrderCanceled",
        at,
        initiated_by=by,
        dispute_id=dispute,
        grounds=grounds,
        affects_metrics=affects_metrics,
        refund_due=None if refund_due is None else _usd(refund_due),
        comment=comment,
    )


def partial_refund_granted(amount: int = 60_00, refund: str = FIRST) -> Expected:
    return _event("PartialRefundGranted", None, refund_id=refund, amount=_usd(amount))


def refund_processed(refund: str = FIRST) -> Expected:
    return _event("RefundProcessed", None, refund_id=refund)


def _event(name: str, at: datetime | None, **data: Any) -> Expected:
    on_the_wire = {key: format_instant(v) if isinstance(v, datetime) else v for key, v in data.items()}
    return Expected(name, at, on_the_wire)


def _usd(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "USD"}


# --- how it is played ---


@dataclass
class Story:
    """One order, and what became of the last command."""

    order: Order = field(default_factory=lambda: Order(id=ORDER))
    stored: StoredInMemory = field(default_factory=StoredInMemory)
    oracle: Oracle = field(default_factory=Oracle)
    now: datetime = T
    cause: str = ""
    new: list[Event] = field(default_factory=list)
    outcome: Outcome = None
    message: str = ""
    checked: bool = True
    _requests: int = 0
    _others: int = 1000

    def play(self, step: Step, command_id: str | None = None) -> None:
        self.now, sent = step if isinstance(step, tuple) else (self.now, step)
        envelope = sent if isinstance(sent, CommandEnvelope) else in_envelope(sent)
        self.cause = command_id or self._next_id(envelope.name)
        record = as_record(envelope.model_copy(update={"id": self.cause}), self.now)
        command = decode(record, self.now, None).command
        anew = evolve_all(Order(id=ORDER), self.history)
        self.new, self.outcome, self.message = _judge(self.order, command, self.cause, self.now)
        assert self.order == anew, "judging changed the order"
        assert (self.new, self.outcome, self.message) == _judge(anew, command, self.cause, self.now)
        self.stored.append(self.new)
        evolve_all(self.order, self.new)
        assert self.order == evolve_all(Order(id=ORDER), self.history), "an order loaded anew stands elsewhere"
        self._ask_oracle(record)
        self.checked = False

    @property
    def history(self) -> list[Event]:
        """All events so far, as they come back from the store."""
        return self.stored.history(ORDER)

    def expect(self, events: list[Expected]) -> list[Any]:
        time, told = self.now, []
        for number, event in enumerate(events, len(self.history) - len(self.new) + 1):
            time = event.at or time
            told.append((number, event.name, time, event.data, self.cause))
        return told

    def _ask_oracle(self, record: Record) -> None:
        said = read_by_oracle(self.oracle, record, self.now)
        assert [event_of(event) for event in said.events] == [as_published(event) for event in self.new]
        assert said.outcome is not None
        refused = (said.outcome["data"].get("code"), said.outcome["data"].get("details"))
        if refused[0] == "invalid":  # what the errors say is not modelled
            assert self.outcome is not None
            assert self.outcome[0] == "invalid"
        else:
            assert refused == (self.outcome or (None, None))

    def _next_id(self, name: str) -> str:
        if name in ("OpenDispute", "OfferPartialRefund"):
            self._requests += 1
            return command_id(self._requests)
        self._others += 1
        return command_id(self._others)


_stories: ContextVar[Story | None] = ContextVar("story", default=None)


def current() -> Story:
    """The story of the test that runs."""
    story = _stories.get()
    assert story is not None, "say `given` first; `given()` alone is an order nobody registered"
    return story


def forget() -> None:
    """Ends the story. Fails if nobody said what was to follow."""
    story = _stories.get()
    _stories.set(None)
    assert story is None or story.checked, "when ...: then what?"


def _judge(
    order: Order, command: Command | Rejected, command_id: str, now: datetime
) -> tuple[list[Event], Outcome, str]:
    decision = decide(order, command, command_id, order.business_time(now))
    why = decision.rejection
    return (decision.events, None, "") if why is None else (decision.events, (why.code, why.details), why.message)


def _as_told(event: Event) -> tuple[int, str, datetime, dict[str, Any], str]:
    number, name = event.originator_version, type(event).__name__
    return number, name, event.timestamp, public_data(event), event.command_id
