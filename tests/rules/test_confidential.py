"""The confidential reason of a refund comes out nowhere but on its author's page (D16)."""

import json
import logging
import traceback
from datetime import datetime
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from msgspec import UnsetType
from resolution_contracts import EVENTS as PUBLIC_EVENTS
from resolution_contracts import RefundReason

from projections.order_page import NotAParty, add_texts, show, view
from services.judging.decode import Unreadable, decode
from services.orders import Order
from services.orders.events import EVENTS, Confidential, DisputeOpened, Event
from services.orders.evolve import evolve
from services.orders.guards import must_be_known
from services.orders.public_events import confidential_fields, event_envelope, event_message, public_data
from tests.rules.logs import CLOCK, Service, names, page_after, page_of
from tests.support.controls import (
    CLIENT,
    DAYS,
    EXPLANATION,
    FIRST,
    FREELANCER,
    HOURS,
    ORDER,
    SECOND,
    STRANGER,
    THIRD,
    T,
    accept,
    as_record,
    cancel,
    cancellation,
    command_id,
    completed,
    decline,
    delivered,
    expire,
    in_envelope,
    opened,
    raw_record,
    refund_offer,
    refunded,
    registered,
    registered_awaiting,
    untyped,
    withdraw,
)
from tests.support.decisions import carry_out

MARKER = "marker-3f9d1c"
"""Stands in every confidential place, and occurs nowhere else."""

MARKED_NUMBER = 771_003_553_771
MARKED_TIME = datetime.fromisoformat("2217-07-17T17:17:17.717171+00:00")
MARKS = (MARKER, str(MARKED_NUMBER), "2217-07-17")


def assert_not_marked(output: Any) -> None:
    text = output if isinstance(output, str) else msgspec.json.encode(output, enc_hook=repr).decode()
    assert not any(mark in text for mark in MARKS), text


# --- every event type, by its annotations ---


def is_confidential(hint: Any) -> bool:
    """Whether the annotation `Confidential` stands anywhere in a type."""
    extra = [meta.extra for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return any(each and each.get("confidential") for each in extra) or any(map(is_confidential, get_args(hint)))


def example(hint: Any, marked: bool) -> Any:
    """A value of this type, with marks in it where it is confidential."""
    marked = marked or is_confidential(hint)
    kind = get_origin(hint)
    if kind is Annotated:
        return example(get_args(hint)[0], marked)
    if kind in (Union, UnionType):
        return example(next(each for each in get_args(hint) if each not in (UnsetType, type(None))), marked)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint(**example_fields(hint, marked))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return MARKER if marked else next(iter(hint))
    plain = {str: "text", int: 7, bool: True, datetime: T}
    marks = {str: MARKER, int: MARKED_NUMBER, bool: True, datetime: MARKED_TIME}
    return (marks if marked else plain)[hint]


def example_fields(struct: type[msgspec.Struct], marked: bool = False) -> dict[str, Any]:
    return {name: example(hint, marked) for name, hint in get_type_hints(struct, include_extras=True).items()}


def marked_event(event_type: type[Event], number: int = 1) -> Event:
    known = {"originator_id": ORDER, "originator_version": number, "timestamp": T, "command_id": FIRST}
    fields = example_fields(event_type)
    return event_type(**(fields | known | ({"dispute_id": FIRST} if "dispute_id" in fields else {})))


every_event = pytest.mark.parametrize("event_type", EVENTS.values(), ids=list(EVENTS))


def test_D16_the_walk_finds_what_is_confidential():
    assert MARKER in repr(marked_event(EVENTS["DisputeOpened"]))
    inner = msgspec.defstruct("Inner", [("reason", Annotated[str | UnsetType, Confidential] | None)])
    outer = msgspec.defstruct("Outer", [("inner", inner)])
    assert MARKER in repr(example(outer, marked=False))


@every_event
def test_D16_public_events_leave_out_every_confidential_field(event_type):
    event = marked_event(event_type)
    assert_not_marked(public_data(event))
    assert_not_marked(event_envelope(event))


@every_event
def test_D16_and_nothing_else(event_type):
    """What is public is what the contract lists: a field is either declared there or declared confidential."""
    of_the_envelope = {"originator_id", "originator_version", "timestamp", "command_id"}
    fields = {field.name for field in msgspec.structs.fields(event_type)} - of_the_envelope
    confidential = {
        name for name, hint in get_type_hints(event_type, include_extras=True).items() if is_confidential(hint)
    }
    assert confidential == confidential_fields(event_type)
    assert fields - confidential == set(PUBLIC_EVENTS[event_type.__name__].model_fields)
    assert set(public_data(marked_event(event_type))) == fields - confidential


@every_event
@pytest.mark.parametrize("viewer", [CLIENT, None], ids=["client", "operator"])
def test_D16_the_order_page_shows_no_confidential_field_of_any_event(event_type, viewer):
    page = page_after(a_refund_is_open().events)
    event = marked_event(event_type, page.order.version + 1)
    evolve(page.order, event)
    show(page, event)
    add_texts(page, event)
    facts = must_be_known(page.order)
    assert_not_marked(view(page, [], viewer and facts.client_id, T))


def a_refund_is_open():
    service = Service()
    service.send(registered(), command_id(99))
    service.send(refund_offer(), FIRST)
    return service


@pytest.mark.parametrize("reason", RefundReason)
def test_D16_stored_it_is_there_and_published_it_is_not(reason):
    service = Service()
    service.send(registered(), command_id(99))
    service.send(refund_offer(reason=reason), FIRST)
    [_, opened] = service.stored.history(ORDER)
    assert isinstance(opened, DisputeOpened)
    assert opened.refund_reason == reason
    assert reason.encode() not in event_message(opened)
    assert all(reason.encode() not in stored.state for stored in service.stored.events[ORDER])


# --- whoever looks ---


def test_D16_the_freelancer_who_gave_it_sees_it():
    [dispute] = page_of(a_refund_is_open().events, FREELANCER, T)["disputes"]
    assert dispute["refund_reason"] == "minor_dissatisfaction"


@pytest.mark.parametrize("viewer", [CLIENT, None], ids=["client", "operator"])
@pytest.mark.parametrize("now", [T, T + 48 * HOURS])
def test_D16_nobody_else_does(viewer, now):
    page = page_of(a_refund_is_open().events, viewer, now)
    told = json.dumps({key: value for key, value in page.items() if key != "available_actions"}, default=str)
    assert "minor_dissatisfaction" not in told
    assert "refund_reason" not in told


def test_D16_a_stranger_sees_nothing_at_all():
    with pytest.raises(NotAParty) as refused:
        page_of(a_refund_is_open().events, STRANGER, T)
    assert "minor_dissatisfaction" not in "".join(traceback.format_exception(refused.value))


# --- every output, whatever the reason was: two logs that differ in nothing else must come out the same ---


def offers(reason):
    """Refund offers that meet every fate there is, and what happens to them afterwards."""
    return [
        ([], [refund_offer(reason=reason)]),  # order_unknown
        ([registered()], [refund_offer(reason=reason)]),
        ([registered()], [refund_offer(reason=reason)] * 2),  # FIRST, then SECOND: dispute_open
        ([registered()], [refund_offer(60_01, reason=reason)]),
        ([registered()], [refund_offer(currency="EUR", reason=reason)]),
        ([registered()], [refund_offer(by=CLIENT, reason=reason)]),
        ([registered()], [refund_offer(by=STRANGER, reason=reason)]),
        ([registered(), completed()], [refund_offer(reason=reason)]),
        ([registered(), delivered()], [refund_offer(reason=reason), opened(cancellation())]),
        ([registered()], [refund_offer(reason=reason), accept(by=CLIENT), refund_offer(1, reason=reason)]),
        ([registered()], [refund_offer(reason=reason), accept(by=FREELANCER), accept(by=STRANGER)]),
        ([registered()], [refund_offer(reason=reason), accept(by=CLIENT), refunded(), refunded(SECOND)]),
        ([registered()], [refund_offer(reason=reason), decline(by=CLIENT), accept(by=CLIENT), expire()]),
        ([registered()], [refund_offer(reason=reason), withdraw(by=FREELANCER), withdraw(by=CLIENT)]),
        ([registered()], [refund_offer(reason=reason), completed(), decline(by=CLIENT)]),
        ([registered()], [refund_offer(reason=reason), registered(), registered(expected_delivery_at=T), cancel()]),
        ([registered_awaiting()], [refund_offer(reason=reason), cancel(), decline("never opened", by=CLIENT)]),
    ]


BAD_OFFERS: list[dict[str, Any]] = [
    {"actor": ""},
    {"actor": None},
    {"amount": {"amount": 0, "currency": "USD"}},
    {"amount": {"amount": "1", "currency": "usd"}},
    {"explanation": " "},
    {"explanation": "x" * 2501},
    {"surplus": 1},
    {"amount": {}},
]


def bad_offers(reason):
    whole = refund_offer(reason=reason).model_dump(mode="json")
    return [whole | bad for bad in BAD_OFFERS] + [{"reason": reason}, {"reason": reason, "kind": "partial_refund"}]


def every_output(reason, caplog):
    """All that anybody but the author sees, from all those stories."""
    caplog.clear()
    outputs: list[Any] = []
    for given, commands in offers(reason):
        service = Service()
        for number, command in enumerate(given, 90):
            service.send(command, command_id(number))
        for number, command in enumerate(commands, 1):
            service.send(command, command_id(number), at=T + HOURS)
            service.send(command, command_id(number), at=T + 2 * HOURS)  # again
            service.send(delivered(), command_id(number), at=T + 2 * HOURS)  # and its id for something else
        service.judge([as_record(untyped("OfferPartialRefund", bad)) for bad in bad_offers(reason)])
        outputs.append(outputs_of(service))
    outputs += [refusal(reason, command) for _, commands in offers(reason) for command in commands]
    outputs += [refusal(reason, decoded("OfferPartialRefund", bad)) for bad in bad_offers(reason)]
    return json.dumps([*outputs, caplog.text], default=repr)


def outputs_of(service):
    events = [event_envelope(event) for event in service.events]
    outcomes = [(row.kind, row.key, row.message, row.headers) for row in service.outcomes]
    pages = [
        page_of(service.events, viewer, T + wait)
        for viewer in (CLIENT, None)
        for wait in (HOURS, 49 * HOURS, 30 * DAYS)
        if "OrderRegistered" in names(service.events)
    ]
    return events, outcomes, pages


def decoded(name, data):
    return decode(as_record(untyped(name, data)), T, None).command


def refusal(reason, command):
    """How a rejection looks in a log: its text, its repr, and its traceback without the lines of code."""
    order = Order(id=ORDER)
    carry_out(order, registered(), command_id(99), T)
    carry_out(order, refund_offer(reason=reason), SECOND, T)
    if (why := carry_out(order, command, THIRD, T).rejection) is None:
        return None
    text = "".join(traceback.format_exception_only(why))
    context = repr((why.__cause__, why.__context__))
    return [str(why), repr(why), text, context, why.code, why.details, why.args]


def test_D16_no_output_depends_on_the_reason(caplog):
    caplog.set_level(logging.DEBUG)
    one, *others = (every_output(reason, caplog) for reason in RefundReason)
    assert all(other == one for other in others)


def test_D16_the_authors_page_does():
    """The check above has teeth: the one view that may tell the reasons apart does."""

    def authors_page(reason):
        service = Service()
        service.send(registered(), command_id(99))
        service.send(refund_offer(reason=reason), FIRST)
        return page_of(service.events, FREELANCER, T)

    assert authors_page("other") != authors_page("scope_reduced")


# --- error messages ---


@pytest.mark.parametrize(
    "offer",
    [
        {"reason": MARKER},
        {"reason": [MARKER]},
        {"reason": {"text": MARKER}},
        {"explanation": {"reason": MARKER}},
        {"amount": {"amount": MARKER, "currency": MARKER}},
        {"amount": MARKER},
        {"actor": [MARKER]},
        {"reason": MARKER, "refund_reason": MARKER},
        {"refund_reason": MARKER},
        {"kind": MARKER},
        MARKER,
        [MARKER],
    ],
)
def test_D16_an_error_message_repeats_no_value_that_was_sent(offer):
    usual = refund_offer().model_dump(mode="json") | {"explanation": EXPLANATION}
    data = usual | offer if isinstance(offer, dict) else offer
    envelope = json.loads(in_envelope(refund_offer()).to_json()) | {"data": data}
    service = a_refund_is_open()
    judged = service.judge([raw_record(ORDER.encode(), json.dumps(envelope | {"id": SECOND}).encode())])
    [outcome] = judged.outcomes
    assert b'"code":"invalid"' in outcome.message
    assert_not_marked(outcome.message.decode())


@pytest.mark.parametrize(
    "change",
    [{"specversion": "2"}, {"id": 1}, {"type": "x"}, {"source": ""}, {"subject": "elsewhere"}, {"subject": None}],
)
def test_D16_nor_does_the_error_of_a_dead_letter(change):
    """The record itself goes there unchanged; what is added says why, and no more."""
    data = refund_offer().model_dump(mode="json") | {"reason": MARKER, "explanation": MARKER}
    envelope = json.loads(in_envelope(refund_offer()).to_json()) | {"data": data} | change
    record = raw_record(ORDER.encode(), json.dumps(envelope).encode())
    with pytest.raises(Unreadable) as why:
        decode(record, CLOCK.of_record(record.timestamp), None)
    assert_not_marked(str(why.value))
    [outcome] = Service().judge([record]).outcomes
    assert outcome.message == record.value
    headers = msgspec.json.decode(outcome.headers, type=list[tuple[str, bytes]])
    assert dict(headers)["error"] == str(why.value).encode()
    assert_not_marked(repr(headers))
